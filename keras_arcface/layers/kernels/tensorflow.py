"""What the loss in blocks needs of TensorFlow.

XLA compiles the loss as a whole, which saves passes over the memory. The exception are products in bfloat16 on a CPU:
there TensorFlow's own are twice as fast, and XLA compiles what lies between them.
"""

import functools

import tensorflow as tf

from keras_arcface import _private_api


def read(variable):
    """The value. `keras.ops.convert_to_tensor` gives TensorFlow's variable, which `custom_gradient` will not have."""
    return tf.convert_to_tensor(variable.value)


def compiled(function, dtype):
    """A function of tensors with products of a precision, compiled as is best."""
    as_graph, by_xla = (tf.function(function, jit_compile=jit, autograph=False) for jit in (None, True))

    def call(*arguments):
        by_parts = dtype == "bfloat16" and not _has_gpu() and not _is_whole()
        # A tape that watches the arguments would ask for gradients of what is within.
        return (as_graph if by_parts else by_xla)(*tf.nest.map_structure(tf.stop_gradient, arguments))

    return call


def fused(function):
    """A function within a compiled one, whose steps should make one pass over the memory."""
    by_xla = tf.function(function, jit_compile=True, autograph=False)
    return lambda *arguments: (function if _is_whole() else by_xla)(*arguments)


def _is_whole():
    """Whether what is traced now is compiled by XLA, as a part of something or not."""
    return _private_api.is_in_xla_context()


def block_limits():
    """How many bytes the cosines of a block may be, and how many classes: as measured, or to keep a GPU busy."""
    return (2**27, 2**15) if _has_gpu() else (2**25, 2**12)


@functools.cache
def _has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def repeat(count, body, carry):
    """`carry = body(i, *carry)` for i from 0 to count - 1, one after another: several at once hold several blocks."""
    if count == 1:
        return body(0, *carry)
    return tf.while_loop(
        lambda i, *_: i < count,
        lambda i, *carry: (i + 1, *body(i, *carry)),
        (tf.constant(0), *carry),
        parallel_iterations=1,
    )[1:]


def product(first, second, dtype, transpose_first=False, transpose_second=False):
    """The product of two float32 matrices, their entries rounded to `dtype`, summed in float32.

    In bfloat16 on a CPU the sums are rounded too, as TensorFlow has no such product there that gives float32.
    """
    transposed = {"transpose_a": transpose_first, "transpose_b": transpose_second}
    if dtype != "bfloat16":  # tf.config.experimental.enable_tensor_float_32_execution says whether of TensorFloat-32
        return tf.matmul(first, second, **transposed)
    first, second = tf.cast(first, dtype), tf.cast(second, dtype)
    if _is_whole():
        return tf.matmul(first, second, output_type=tf.float32, **transposed)
    return tf.cast(tf.matmul(first, second, **transposed), "float32")


def stack(shape):
    """Room for `shape[0]` tensors of the shape that follows."""
    if _is_whole():
        return tf.zeros(shape)
    return tf.raw_ops.TensorListReserve(element_shape=shape[1:], num_elements=shape[0], element_dtype=tf.float32)


def push(stack, number, value):
    """The stack with a tensor at a place."""
    if _is_whole():
        return _private_api.xla_dynamic_update_slice(stack, value[None], [number, 0, 0])
    return tf.raw_ops.TensorListSetItem(input_handle=stack, index=number, item=value)


def at(stack, number, shape):
    """The tensor at a place."""
    if _is_whole():
        return stack[number]
    return tf.raw_ops.TensorListGetItem(input_handle=stack, index=number, element_shape=shape, element_dtype=tf.float32)


def empty(shape, like):
    """Room for an array where another one is, all of which is to be written."""
    return tf.zeros(shape) if _is_whole() else tf.raw_ops.Empty(shape=shape, dtype=tf.float32, init=False)


def write(array, start, rows):
    """The array `(1, n, dim)` with rows `(1, m, dim)` from a start on, written where it lies."""
    if _is_whole():
        return _private_api.xla_dynamic_update_slice(array, rows, [0, start, 0])
    # No copy is made of the array, which nothing but this has: `Empty` is never shared.
    places = start + tf.range(rows.shape[1])
    array, rows = tf.reshape(array, array.shape[1:]), tf.reshape(rows, rows.shape[1:])
    return tf.raw_ops.InplaceUpdate(x=array, i=places, v=rows)[None]


def of_all_replicas(labels):
    """The labels of the whole batch, the same everywhere."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return labels
    return tf.distribute.get_replica_context().all_gather(labels, axis=0)


def of_this_replica(values, count):
    """Of values for the whole batch those of this replica, which has `count` of them."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return values
    context = tf.distribute.get_replica_context()
    counts = context.all_gather(tf.reshape(count, (1,)), axis=0)
    start = tf.reduce_sum(counts[: context.replica_id_in_sync_group])
    return values[start : start + count]


def take(variable, rows, shards):
    """Some rows of a large variable, which is not copied for it: equally many of each shard, one after another."""
    return tf.gather(_of_this_replica(variable), rows)


def put(variable, rows, values, shards):
    """Writes some rows of a large variable, which all replicas do alike."""
    _of_this_replica(variable).scatter_update(tf.IndexedSlices(values, rows))


def assign(variable, value):
    """Writes a variable, which all replicas do alike."""
    _of_this_replica(variable).assign(value)


def _of_this_replica(variable):
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return variable.value
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    number = number if isinstance(number, int) else int(tf.get_static_value(number))
    return strategy.experimental_local_results(variable.value)[number]
