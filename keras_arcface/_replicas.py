"""Keeps the replicas of a TensorFlow strategy equal to one device: shares of a batch, statistics, metrics.

With one replica, and on other backends, the functions change nothing.
"""

import contextlib

import keras
import numpy as np
from keras import ops


def variable_scope(model):
    """Returns a context in which a compiled model's new variables are created for all replicas."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def run_on_share(function, images, training):
    """Calls `function` on this replica's share of a batch, which may be empty.

    A short batch can leave a replica without images, and TensorFlow's CPU kernels fail on an empty batch. In training
    all replicas then compute the whole batch, which is smaller than the square of their number, and keep their own
    rows: the statistics of BatchNorm are those of one device. Otherwise a replica without images computes a black one
    and drops the result.
    """
    context = _context()
    if context is None or images.shape[0] is not None:  # shares of a known size are equal
        return function(images)
    import tensorflow as tf

    rows, start = tf.shape(images)[0], 0
    if training:
        counts = context.all_gather(rows[tf.newaxis], axis=0)
        # Where a share is empty, none has more rows than this. No device gathers bytes.
        most = context.num_replicas_in_sync - 1
        whole = context.all_gather(tf.cast(images[:most], tf.float32), axis=0)
        is_short = tf.reduce_any(counts == 0)
        images = tf.cond(is_short, lambda: tf.cast(whole, images.dtype), lambda: images)
        start = tf.where(is_short, tf.reduce_sum(counts[: context.replica_id_in_sync_group]), 0)
    else:
        images = tf.pad(images, [[0, tf.cast(rows == 0, tf.int32)], *[[0, 0]] * (len(images.shape) - 1)])
    return tf.nest.map_structure(lambda outputs: outputs[start : start + rows], function(images))


def first_share(strategy, iterator):
    """The first replica's share of the first batch, by which Keras builds a model.

    Keras takes the mean over the replicas, which fails where their shares are unequal.
    """
    import tensorflow as tf

    for _, _, batches in iterator:
        return tf.nest.map_structure(lambda part: strategy.experimental_local_results(part)[0], next(batches))


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
        variables: candidates. Those that are trained, are not floats, or are aggregated by Keras are left alone.
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
    """Computes results, within a step, from the state that metrics have over all replicas.

    Keras averages the results of the replicas instead, which is wrong for unequal shares, and for a result that is
    not a mean, such as a standard deviation.

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


def predict_on_batch(model, images):
    """Returns a model's outputs for one batch, `(batch, dim)` float32, as one device computes them.

    Under MirroredStrategy `model.predict_on_batch` gives the whole batch to every replica and concatenates the outputs;
    those of the first replica are kept. `model.predict` would split the batch, and other batch sizes round differently.
    """
    return np.asarray(model.predict_on_batch(images)[: len(images)], np.float32)


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
