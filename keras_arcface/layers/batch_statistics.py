"""Running statistics of margins and negatives, stored as weights of the head."""

from keras import ops

from keras_arcface.layers import stateless_random
from keras_arcface.layers import vectors
from keras_arcface.layers.chunked import backends
from keras_arcface.margins import Batch


def add_weights(head, options):
    """Adds one weight per statistic to a head.

    Args:
        head: a `MarginProduct`.
        options: arguments of `add_weight`.

    Returns:
        Dictionary of the weights by name.
    """
    initial_values = dict(head.margin.initial_state)
    if head.negatives is not None and head.negatives.updates_weight:
        initial_values["hardness"] = head.negatives.initial_weight
    return {
        name: head.add_weight(
            name=name, initializer=lambda shape, dtype, value=value: ops.full(shape, value, dtype), **options
        )
        for name, value in initial_values.items()
    }


def make_batch(head, labels, embeddings, target_cosines, training) -> Batch:
    """Returns the `Batch` for the margin of a head, after updating the statistics in training.

    Args:
        head: a `MarginProduct`.
        labels: `(batch,)` int32.
        embeddings: `(batch, dim)` float32, not normalized.
        target_cosines: `(batch,)` float32. Required only with negatives.
        training: true in a training step.
    """
    backend = backends.current()
    norms, normal_samples = vectors.norms(embeddings), None

    def local_part(values):
        return backend.local_part(values, ops.shape(labels)[0])

    def current_batch():
        state = {name: backend.read(head.statistics[name]) for name in head.margin.initial_state}
        return Batch(labels, norms, normal_samples, backend.gather_replicas, local_part, state)

    if training:
        if head.margin.is_random:
            count = ops.shape(backend.gather_replicas(labels))[0]
            samples = stateless_random.normal(count, head.sample_seed, ops.cast(head.steps, "int32"))
            normal_samples = local_part(samples)
        changed = head.margin.next_state(current_batch()) if head.margin.initial_state else {}
        if head.negatives is not None and head.negatives.updates_weight:
            cosines = backend.gather_replicas(ops.stop_gradient(target_cosines))
            changed["hardness"] = head.negatives.next_weight(hardness(head), cosines)
        for name, value in changed.items():
            head.statistics[name].assign(value)
    return current_batch()


def hardness(head):
    """Returns the weight of the hard negatives of a head, a scalar tensor."""
    if head.negatives.updates_weight:
        return backends.current().read(head.statistics["hardness"])
    return ops.convert_to_tensor(head.negatives.initial_weight, "float32")
