"""Backend functions for TensorFlow, where XLA compiles the whole loss. `Backend` documents the functions.

The exception is the dtype bfloat16 on a CPU. In this case, the matrix products of TensorFlow are twice as fast as those
of XLA, so XLA compiles only the operations between them.
"""

import functools

import tensorflow as tf

from keras_arcface import _private_api
from keras_arcface import _processor


def read(variable):
    return tf.convert_to_tensor(variable.value)


def jit(function, matmul_dtype, dynamic_shapes=False):
    as_graph, by_xla = (tf.function(function, jit_compile=jit, autograph=False) for jit in (None, True))

    def call(*arguments):
        by_parts = dynamic_shapes or (matmul_dtype == "bfloat16" and not _has_gpu())
        by_parts = by_parts and not _private_api.is_in_xla_context()
        # Without `stop_gradient`, a gradient tape that watches the arguments would differentiate the function.
        return (as_graph if by_parts else by_xla)(*tf.nest.map_structure(tf.stop_gradient, arguments))

    return call


def fuse(function):
    by_xla = tf.function(function, jit_compile=True, autograph=False)
    return lambda *arguments: (function if _private_api.is_in_xla_context() else by_xla)(*arguments)


def chunk_limits():
    return (2**27, 2**15) if _has_gpu() else (2**25, 2**12)  # measured on a CPU; enough for full use of a GPU


@functools.cache
def _has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def repeat(count, body, carry):
    if count == 1:
        return body(0, *carry)
    return tf.while_loop(
        lambda i, *_: i < count,
        lambda i, *carry: (i + 1, *body(i, *carry)),
        (tf.constant(0), *carry),
        parallel_iterations=1,
    )[1:]


def is_fast(dtype):
    return dtype != "bfloat16" or _has_gpu() or _processor.has_bfloat16()


def matmul(first, second, dtype, transpose_first=False, transpose_second=False):
    transposed = {"transpose_a": transpose_first, "transpose_b": transpose_second}
    if dtype != "bfloat16":  # tf.config.experimental.enable_tensor_float_32_execution controls TensorFloat-32
        return tf.matmul(first, second, **transposed)
    first, second = tf.cast(first, dtype), tf.cast(second, dtype)
    if _private_api.is_in_xla_context():
        return tf.matmul(first, second, output_type=tf.float32, **transposed)
    return tf.cast(tf.matmul(first, second, **transposed), "float32")  # no float32 sums on a CPU


def list_fractions():
    return (2**-7, 2**-6) if _private_api.is_in_xla_context() else (2**-5, 2**-4)  # XLA's arrays have this size


def row_sums(values):
    if _has_gpu():
        return tf.reduce_sum(values, axis=-1)
    return tf.matmul(values, tf.ones((tf.shape(values)[-1], 1)))[..., 0]  # several times as fast on a CPU


def fast_copy(rows):
    return tf.cast(rows, "bfloat16") if is_fast("bfloat16") else rows


def rounding_errors(rows):
    if not is_fast("bfloat16"):
        return tf.zeros(tf.shape(rows)[0])
    return tf.sqrt(row_sums(tf.square(rows - _private_api.xla_round_to_bfloat16(rows))))


def fast_matmul(first, second):
    if _private_api.is_in_xla_context() and is_fast("bfloat16"):
        return tf.matmul(first, second, output_type=tf.float32, transpose_b=True)
    return tf.matmul(first, second, transpose_b=True)


def find(mask, size):
    if not _private_api.is_in_xla_context():
        positions = tf.cast(tf.where(mask)[:, 0], "int32")
        return positions[:size], tf.size(positions)
    numbers = tf.cumsum(tf.cast(mask, "int32"))
    targets = tf.where(tf.logical_and(mask, numbers <= size), numbers - 1, size)  # the last entry is dropped
    positions = tf.tensor_scatter_nd_update(tf.zeros(size + 1, "int32"), targets[:, None], tf.range(tf.size(mask)))
    return positions[:size], numbers[-1]


def new_list(start, size):
    if _private_api.is_in_xla_context():
        rest = tf.zeros((size - tf.shape(start)[0], *start.shape[1:]), start.dtype)
        return tf.concat([start, rest], axis=0)
    empty = tf.raw_ops.EmptyTensorList(
        element_shape=[-1, *start.shape[1:]], max_num_elements=-1, element_dtype=start.dtype
    )
    return tf.raw_ops.TensorListPushBack(input_handle=empty, tensor=start)


def extend(values, rows, count):
    if _private_api.is_in_xla_context():
        return _private_api.xla_dynamic_update_slice(values, rows, [count, *[0] * (len(rows.shape) - 1)])
    return tf.raw_ops.TensorListPushBack(input_handle=values, tensor=rows)


def as_array(values, like):
    if _private_api.is_in_xla_context():
        return values
    return tf.raw_ops.TensorListConcatV2(
        input_handle=values, element_shape=[-1, *like.shape[1:]], element_dtype=like.dtype, leading_dims=[]
    )[0]


def slice_rows(array, start, size):
    if _private_api.is_in_xla_context():
        return tf.slice(array, [start], [size])
    part = array[start : start + size]
    return tf.ensure_shape(tf.pad(part, [[0, size - tf.size(part)]]), [size])  # a static shape, for `fuse`


def zeros(shape, like):
    if _private_api.is_in_xla_context():
        return tf.zeros(shape)
    return tf.raw_ops.Empty(shape=shape, dtype=tf.float32, init=True)


def add_rows(array, index, rows):
    if _private_api.is_in_xla_context() or _has_gpu():  # `InplaceAdd` is not atomic on a GPU
        return tf.tensor_scatter_nd_add(array, tf.expand_dims(index, 1), rows)
    # Adding in place is safe, because no other tensor shares the memory of `Empty`.
    return tf.raw_ops.InplaceAdd(x=array, i=index, v=rows)


def new_cache(shape):
    if _private_api.is_in_xla_context():
        return tf.zeros(shape)
    return tf.raw_ops.TensorListReserve(element_shape=shape[1:], num_elements=shape[0], element_dtype=tf.float32)


def cache_put(cache, index, value):
    if _private_api.is_in_xla_context():
        return _private_api.xla_dynamic_update_slice(cache, value[None], [index, 0, 0])
    return tf.raw_ops.TensorListSetItem(input_handle=cache, index=index, item=value)


def cache_get(cache, index, shape):
    if _private_api.is_in_xla_context():
        return cache[index]
    return tf.raw_ops.TensorListGetItem(input_handle=cache, index=index, element_shape=shape, element_dtype=tf.float32)


def empty(shape, like):
    if _private_api.is_in_xla_context():
        return tf.zeros(shape)
    return tf.raw_ops.Empty(shape=shape, dtype=tf.float32, init=False)


def write_rows(array, start, rows):
    if _private_api.is_in_xla_context():
        return _private_api.xla_dynamic_update_slice(array, rows, [0, start, 0])
    # Writing in place is safe, because no other tensor shares the memory of `Empty`.
    indices = start + tf.range(rows.shape[1])
    array, rows = tf.reshape(array, array.shape[1:]), tf.reshape(rows, rows.shape[1:])
    return tf.raw_ops.InplaceUpdate(x=array, i=indices, v=rows)[None]


def gather_replicas(values):
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return values
    return tf.distribute.get_replica_context().all_gather(values, axis=0)


def local_part(values, count):
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return values
    context = tf.distribute.get_replica_context()
    counts = context.all_gather(tf.reshape(count, (1,)), axis=0)
    start = tf.reduce_sum(counts[: context.replica_id_in_sync_group])
    return values[start : start + count]


def take_rows(variable, rows, shards):
    return tf.gather(_on_this_replica(variable), rows)


def put_rows(variable, rows, values, shards):
    _on_this_replica(variable).scatter_update(tf.IndexedSlices(values, rows))


def assign(variable, value):
    _on_this_replica(variable).assign(value)


def _on_this_replica(variable):
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return variable.value
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    replica = replica if isinstance(replica, int) else int(tf.get_static_value(replica))
    return strategy.experimental_local_results(variable.value)[replica]
