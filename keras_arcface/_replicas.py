"""Keeps the replicas of a TensorFlow strategy equal to one device: shares of a batch, statistics, metrics.

Outside of a training step of several replicas, and on other backends, every function returns what it was given.
"""

import keras
from keras import ops


def run_on_share(function, images, training):
    """Calls `function` on this replica's share of a batch, which may be empty.

    A short batch can leave a replica without images, and TensorFlow's CPU kernels fail on an empty batch. Such a
    replica computes one image and drops the result. In training it is an image of another replica, so that
    synchronized BatchNorm sees no foreign pixels.
    """
    context = _context()
    if context is None or images.shape[0] is not None:
        return function(images)
    import tensorflow as tf

    rows = tf.shape(images)[0]
    if training:
        first = context.all_gather(tf.cast(images[:1], tf.float32), axis=0)[:1]  # no device gathers bytes
        images = tf.cond(rows > 0, lambda: images, lambda: tf.cast(first, images.dtype))
    else:
        images = tf.pad(images, [[0, tf.cast(rows == 0, tf.int32)], *[[0, 0]] * (len(images.shape) - 1)])
    return tf.nest.map_structure(lambda outputs: outputs[:rows], function(images))


def weigh_by_rows(mean, examples):
    """Returns the mean loss of a replica with the gradient that the whole batch's mean has for its rows.

    Keras averages the means of all replicas, so that an example counts for more where the share is small.

    Args:
        mean: scalar, the mean over this replica's examples.
        examples: tensor whose first axis is this replica's examples.
    """
    context = _context()
    if context is None or examples.shape[0] is not None:
        return mean
    share = _share(context, examples, mean.dtype) * context.num_replicas_in_sync
    return share * mean + ops.stop_gradient(mean - share * mean)


def average_statistics(variables, examples):
    """Sets statistics that each replica learned from its share, as BatchNorm's, to their mean, weighted by the rows.

    Args:
        variables: candidates. Those that are trained, that are no floats or that Keras aggregates are left alone.
        examples: tensor whose first axis is this replica's examples.
    """
    context = _context()
    if context is None:
        return
    import tensorflow as tf

    # `value.trainable` is what a variable was created as; `trainable` is also false where a layer is frozen.
    variables = [v for v in variables if v.aggregation == "none" and v.value.dtype.is_floating]
    variables = [v for v in variables if not v.value.trainable]
    if not variables:
        return
    share = _share(context, examples, "float32")
    weighted = [tf.cast(v.value, "float32") * share for v in variables]
    for variable, total in zip(variables, context.all_reduce(tf.distribute.ReduceOp.SUM, weighted), strict=True):
        variable.assign(tf.cast(total, variable.value.dtype))


def metrics_of_all(metrics, result):
    """Calls `result`, within a step, with the state that the metrics have over all replicas.

    Keras averages the results of the replicas instead, which is another figure where shares are unequal or a result is
    no mean, such as a standard deviation.

    Args:
        metrics: list of metrics.
        result: function without arguments that computes their results.
    """
    context = _context()
    variables = [variable for metric in metrics for variable in metric.variables]
    if context is None or any(variable.aggregation != "sum" for variable in variables):
        return result()
    import tensorflow as tf

    totals = context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.convert_to_tensor(v.value) for v in variables])
    with keras.StatelessScope(state_mapping=list(zip(variables, totals, strict=True))):
        return result()


def _share(context, examples, dtype):
    """The part of the whole batch that this replica has, in [0, 1]."""
    import tensorflow as tf

    if examples.shape[0] is not None:  # shares of a known size are equal
        return 1 / context.num_replicas_in_sync
    rows = tf.cast(tf.shape(examples)[0], dtype)
    return rows / context.all_reduce(tf.distribute.ReduceOp.SUM, rows)


def _context():
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
