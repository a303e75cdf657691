"""Functions that make a step on several replicas of a TensorFlow strategy equal to a step on one device.

With one replica, and on other backends, they have no effect.
"""

import contextlib

import keras
import numpy as np
from keras import ops


def variable_scope(model):
    """Returns a context that creates new variables of a compiled model on all replicas."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def num_replicas():
    """Returns the number of replicas whose gradients are summed."""
    if keras.backend.backend() != "tensorflow":
        return 1  # JAX computes the gradients of the global batch
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_gradients(gradients):
    """Returns the sum of the gradients over all replicas. Call it inside a replica."""
    if num_replicas() == 1:
        return gradients
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def run_on_local_batch(function, images, training):
    """Calls a function on the local batch, the part of a batch on this replica, which may be empty.

    A global batch may have fewer images than replicas, but the CPU kernels of TensorFlow fail on an empty batch. In
    training, all replicas then compute the whole batch, which has fewer rows than the square of their number, and keep
    their own rows, so that the BatchNorm statistics are those of one device. In inference, a replica without images
    computes a black image and drops the result.
    """
    context = _replica_context()
    if context is None or images.shape[0] is not None:  # local batches of static size are equal
        return function(images)
    import tensorflow as tf

    rows, start = tf.shape(images)[0], 0
    if training:
        counts = context.all_gather(rows[tf.newaxis], axis=0)
        # If a local batch is empty, the others have at most this many rows. Devices cannot gather uint8.
        most = context.num_replicas_in_sync - 1
        whole = context.all_gather(tf.cast(images[:most], tf.float32), axis=0)
        has_empty = tf.reduce_any(counts == 0)
        images = tf.cond(has_empty, lambda: tf.cast(whole, images.dtype), lambda: images)
        start = tf.where(has_empty, tf.reduce_sum(counts[: context.replica_id_in_sync_group]), 0)
    else:
        images = tf.pad(images, [[0, tf.cast(rows == 0, tf.int32)], *[[0, 0]] * (len(images.shape) - 1)])
    return tf.nest.map_structure(lambda outputs: outputs[start : start + rows], function(images))


def first_local_batch(strategy, iterator):
    """Returns the local batch of the first replica in the first batch, from which Keras builds a model.

    Keras itself computes the mean of the local batches, which fails if they have unequal sizes.
    """
    import tensorflow as tf

    for _, _, batches in iterator:
        return tf.nest.map_structure(lambda part: strategy.experimental_local_results(part)[0], next(batches))


def scale_gradient_by_batch_share(mean, examples):
    """Returns a mean loss of this replica with its gradient scaled by the local share of the global batch.

    Keras averages the means of the replicas, so that examples of a smaller local batch have a larger weight.

    Args:
        mean: scalar mean over the local batch.
        examples: tensor whose first axis is the local batch.
    """
    context = _replica_context()
    if context is None or examples.shape[0] is not None:
        return mean
    factor = _batch_share(context, examples, mean.dtype) * context.num_replicas_in_sync
    return factor * mean + ops.stop_gradient(mean - factor * mean)


def average_statistics(variables, examples):
    """Sets statistics, such as those of BatchNorm, to their mean over the replicas, weighted by local batch sizes.

    Args:
        variables: variables to average. Trainable variables, integers, and variables aggregated by Keras are ignored.
        examples: tensor whose first axis is the local batch.
    """
    context = _replica_context()
    if context is None:
        return
    import tensorflow as tf

    # `value.trainable` is set at creation, whereas `trainable` is also false for a frozen layer.
    variables = [v for v in variables if v.aggregation == "none" and v.value.dtype.is_floating]
    variables = [v for v in variables if not v.value.trainable]
    if not variables:
        return
    share = _batch_share(context, examples, "float32")
    weighted = [tf.cast(v.value, "float32") * share for v in variables]
    for variable, total in zip(variables, context.all_reduce(tf.distribute.ReduceOp.SUM, weighted), strict=True):
        variable.assign(tf.cast(total, variable.value.dtype))


def reduce_metrics(metrics, result):
    """Computes the results of metrics in a training step from their states, summed over all replicas.

    Keras itself averages the results of the replicas, which is wrong for unequal local batches, and for results that
    are not means, such as a standard deviation.

    Args:
        metrics: list of metrics.
        result: function without arguments that returns the results of the metrics.
    """
    context = _replica_context()
    variables = [variable for metric in metrics for variable in metric.variables]
    if context is None or any(variable.aggregation != "sum" for variable in variables):
        return result()
    import tensorflow as tf

    totals = context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.convert_to_tensor(v.value) for v in variables])
    with keras.StatelessScope(state_mapping=list(zip(variables, totals, strict=True))):
        return result()


def predict_on_batch(model, images):
    """Returns the outputs of a model for one batch, `(batch, dim)` float32, equal to those of one device.

    Under MirroredStrategy, `model.predict_on_batch` passes the whole batch to every replica and concatenates the
    outputs, of which those of the first replica are returned. `model.predict` splits the batch, and the rounding
    depends on the batch size.
    """
    return np.asarray(model.predict_on_batch(images)[: len(images)], np.float32)


def _batch_share(context, examples, dtype):
    """Returns the local share of the global batch, in [0, 1]."""
    import tensorflow as tf

    if examples.shape[0] is not None:  # local batches of static size are equal
        return 1 / context.num_replicas_in_sync
    rows = tf.cast(tf.shape(examples)[0], dtype)
    return rows / context.all_reduce(tf.distribute.ReduceOp.SUM, rows)


def _replica_context():
    """Returns the replica context of TensorFlow if several replicas exist, otherwise None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
