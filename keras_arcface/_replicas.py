"""Makes replicas of a TensorFlow strategy compute what one device computes: batches, gradients, statistics, metrics.

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


def num_replicas():
    """Returns the number of replicas that sum their gradients."""
    if keras.backend.backend() != "tensorflow":
        return 1  # JAX computes the gradients of the global batch
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_gradients(gradients):
    """Returns the gradients summed over all replicas; call it inside a replica."""
    if num_replicas() == 1:
        return gradients
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def run_on_local_batch(function, images, training):
    """Calls `function` on this replica's part of a batch, which may be empty.

    A batch with fewer images than replicas leaves replicas without images, and TensorFlow's CPU kernels fail on an
    empty batch. In training, all replicas then compute the whole batch, which has fewer rows than the square of their
    number, and keep their own rows: the BatchNorm statistics are those of one device. Otherwise a replica without
    images computes a black image and drops the result.
    """
    context = _replica_context()
    if context is None or images.shape[0] is not None:  # local batches of static size are equal
        return function(images)
    import tensorflow as tf

    rows, start = tf.shape(images)[0], 0
    if training:
        counts = context.all_gather(rows[tf.newaxis], axis=0)
        # If one local batch is empty, no other has more rows than this. Devices cannot gather uint8.
        most = context.num_replicas_in_sync - 1
        whole = context.all_gather(tf.cast(images[:most], tf.float32), axis=0)
        has_empty = tf.reduce_any(counts == 0)
        images = tf.cond(has_empty, lambda: tf.cast(whole, images.dtype), lambda: images)
        start = tf.where(has_empty, tf.reduce_sum(counts[: context.replica_id_in_sync_group]), 0)
    else:
        images = tf.pad(images, [[0, tf.cast(rows == 0, tf.int32)], *[[0, 0]] * (len(images.shape) - 1)])
    return tf.nest.map_structure(lambda outputs: outputs[start : start + rows], function(images))


def first_local_batch(strategy, iterator):
    """Returns the first replica's part of the first batch, with which Keras builds a model.

    Keras reduces the batch over the replicas by its mean instead, which fails if their parts have unequal sizes.
    """
    import tensorflow as tf

    for _, _, batches in iterator:
        return tf.nest.map_structure(lambda part: strategy.experimental_local_results(part)[0], next(batches))


def scale_gradient_by_batch_share(mean, examples):
    """Returns a replica's mean loss, with the gradient that its rows have in the mean over the global batch.

    Keras averages the means of the replicas, which gives examples of a smaller local batch a larger weight.

    Args:
        mean: scalar, the mean over this replica's examples.
        examples: tensor whose first axis is this replica's examples.
    """
    context = _replica_context()
    if context is None or examples.shape[0] is not None:
        return mean
    factor = _batch_share(context, examples, mean.dtype) * context.num_replicas_in_sync
    return factor * mean + ops.stop_gradient(mean - factor * mean)


def average_statistics(variables, examples):
    """Sets statistics of each replica, such as those of BatchNorm, to their mean weighted by local batch sizes.

    Args:
        variables: candidates. Variables that are trained, not floats, or aggregated by Keras are not changed.
        examples: tensor whose first axis is this replica's examples.
    """
    context = _replica_context()
    if context is None:
        return
    import tensorflow as tf

    # `value.trainable` is the value at creation; `trainable` is also false if a layer is frozen.
    variables = [v for v in variables if v.aggregation == "none" and v.value.dtype.is_floating]
    variables = [v for v in variables if not v.value.trainable]
    if not variables:
        return
    share = _batch_share(context, examples, "float32")
    weighted = [tf.cast(v.value, "float32") * share for v in variables]
    for variable, total in zip(variables, context.all_reduce(tf.distribute.ReduceOp.SUM, weighted), strict=True):
        variable.assign(tf.cast(total, variable.value.dtype))


def reduce_metrics(metrics, result):
    """Computes results, inside a training step, from the state of metrics summed over all replicas.

    Keras averages the results of the replicas instead, which is wrong for unequal local batches, and for results that
    are not means, such as a standard deviation.

    Args:
        metrics: list of metrics.
        result: function without arguments that computes their results.
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
    """Returns a model's outputs for one batch, `(batch, dim)` float32, as one device computes them.

    Under MirroredStrategy `model.predict_on_batch` gives the whole batch to every replica and concatenates the outputs;
    those of the first replica are kept. `model.predict` would split the batch, and other batch sizes round differently.
    """
    return np.asarray(model.predict_on_batch(images)[: len(images)], np.float32)


def _batch_share(context, examples, dtype):
    """Returns the fraction of the global batch that this replica has, in [0, 1]."""
    import tensorflow as tf

    if examples.shape[0] is not None:  # local batches of static size are equal
        return 1 / context.num_replicas_in_sync
    rows = tf.cast(tf.shape(examples)[0], dtype)
    return rows / context.all_reduce(tf.distribute.ReduceOp.SUM, rows)


def _replica_context():
    """Returns TensorFlow's replica context if there are several replicas."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
