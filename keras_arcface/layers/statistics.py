"""What margins and negatives learn of the batches that went by, and what they are told of the one at hand."""

from keras import ops

from keras_arcface.layers import kernels
from keras_arcface.layers import parts
from keras_arcface.layers import sampling
from keras_arcface.margins import Batch


def make(head, options) -> dict:
    """The weights that a head keeps for its margin and its negatives, by name."""
    start = dict(getattr(head.margin, "start", {}))
    if _learns(head.negatives):
        start["hardness"] = head.negatives.start
    return {
        name: head.add_weight(
            name=name, initializer=lambda shape, dtype, value=value: ops.full(shape, value, dtype), **options
        )
        for name, value in start.items()
    }


def of_batch(head, labels, embeddings, target_cosines, training) -> Batch:
    """Tells the margin of a batch; in training the head's statistics have it in them then.

    Args:
        head: the head.
        labels: `(batch,)` int32.
        embeddings: `(batch, dim)` float32, not normalized.
        target_cosines: `(batch,)` float32.
        training: whether this is a batch of a training.
    """
    kernel = kernels.here()
    margin_names = list(getattr(head.margin, "start", {}))

    def own(values):
        return kernel.of_this_replica(values, ops.shape(labels)[0])

    def batch():
        state = {name: kernel.read(head.statistics[name]) for name in margin_names}
        return Batch(labels, norms, normals, kernel.of_all_replicas, own, state)

    norms = parts.norms(embeddings)
    normals = None
    if training:
        if getattr(head.margin, "random", False):
            count = ops.shape(kernel.of_all_replicas(labels))[0]
            normals = own(sampling.normals(count, head.sample_seed, ops.cast(head.steps, "int32")))
        changed = head.margin.next_state(batch()) if margin_names else {}
        if _learns(head.negatives):
            cosines = kernel.of_all_replicas(ops.stop_gradient(target_cosines))
            changed["hardness"] = head.negatives.next_weight(hardness(head), cosines)
        for name, value in changed.items():
            head.statistics[name].assign(value)
    return batch()


def hardness(head):
    """How hard the head's negatives are, a scalar."""
    if _learns(head.negatives):
        return kernels.here().read(head.statistics["hardness"])
    return ops.convert_to_tensor(head.negatives.start, "float32")


def _learns(negatives):
    return negatives is not None and negatives.learns
