"""The running statistics of margins and negatives, kept as weights of the head."""

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
        The weights by name.
    """
    start = dict(head.margin.start)
    if head.negatives is not None and head.negatives.learns:
        start["hardness"] = head.negatives.start
    return {
        name: head.add_weight(
            name=name, initializer=lambda shape, dtype, value=value: ops.full(shape, value, dtype), **options
        )
        for name, value in start.items()
    }


def batch_of(head, labels, embeddings, target_cosines, training) -> Batch:
    """Returns the `Batch` for the head's margin; in training, updates the statistics with it first.

    Args:
        head: a `MarginProduct`.
        labels: `(batch,)` int32.
        embeddings: `(batch, dim)` float32, not normalized.
        target_cosines: `(batch,)` float32; may be None without negatives.
        training: whether this is a training step.
    """
    backend = backends.current()
    norms, normals = vectors.norms(embeddings), None

    def local(values):
        return backend.local_part(values, ops.shape(labels)[0])

    def batch():
        state = {name: backend.read(head.statistics[name]) for name in head.margin.start}
        return Batch(labels, norms, normals, backend.gather_replicas, local, state)

    if training:
        if head.margin.random:
            count = ops.shape(backend.gather_replicas(labels))[0]
            normals = local(stateless_random.normals(count, head.sample_seed, ops.cast(head.steps, "int32")))
        changed = head.margin.next_state(batch()) if head.margin.start else {}
        if head.negatives is not None and head.negatives.learns:
            cosines = backend.gather_replicas(ops.stop_gradient(target_cosines))
            changed["hardness"] = head.negatives.next_weight(hardness(head), cosines)
        for name, value in changed.items():
            head.statistics[name].assign(value)
    return batch()


def hardness(head):
    """Returns the weight of the head's hard negatives, a scalar."""
    if head.negatives.learns:
        return backends.current().read(head.statistics["hardness"])
    return ops.convert_to_tensor(head.negatives.start, "float32")
