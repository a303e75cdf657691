"""Backend functions for JAX, which compiles the whole loss as one program. `Backend` documents the functions."""

import jax
from jax import lax
from jax import numpy as jnp

from keras_arcface import _processor


def read(variable):
    return variable.value


def jit(function, matmul_dtype, dynamic_shapes=False):
    return jax.jit(function)


def fuse(function):
    return function


def chunk_limits():
    return (2**25, 2**12) if jax.default_backend() == "cpu" else (2**27, 2**15)


def repeat(count, body, carry):
    if count == 1:
        return body(0, *carry)
    return lax.fori_loop(0, count, lambda i, carry: body(i, *carry), carry)


def is_fast(dtype):
    return dtype != "bfloat16" or jax.default_backend() != "cpu" or _processor.has_bfloat16()


def matmul(first, second, dtype, transpose_first=False, transpose_second=False):
    first, second = first.T if transpose_first else first, second.T if transpose_second else second
    if dtype != "bfloat16":  # "high" is TensorFloat-32 if the device supports it, otherwise float32
        precision = lax.Precision.HIGHEST if dtype == "float32" else lax.Precision.HIGH
        return jnp.matmul(first, second, precision=precision)
    return jnp.matmul(first.astype(dtype), second.astype(dtype), preferred_element_type=jnp.float32)


def list_fractions():
    return 2**-7, 2**-6  # arrays have the maximum size


def row_sums(values):
    if jax.default_backend() != "cpu":
        return jnp.sum(values, axis=-1)
    # Several times as fast on a CPU.
    return jnp.matmul(values, jnp.ones((values.shape[-1], 1)), precision=lax.Precision.HIGHEST)[..., 0]


def _is_faster_in_bfloat16():
    return jax.default_backend() != "cpu"  # XLA on a CPU is not, even with instructions for it


def fast_copy(rows):
    return _round_to_bfloat16(rows).astype("bfloat16") if _is_faster_in_bfloat16() else rows


def rounding_errors(rows):
    if not _is_faster_in_bfloat16():
        return jnp.zeros(rows.shape[0])
    return jnp.linalg.norm(rows - _round_to_bfloat16(rows), axis=1)


def _round_to_bfloat16(rows):
    return lax.reduce_precision(rows, exponent_bits=8, mantissa_bits=7)  # XLA may remove pairs of casts


def fast_matmul(first, second):
    return matmul(first, second, str(first.dtype), transpose_second=True)


def find(mask, size):
    numbers = jnp.cumsum(mask, dtype="int32")
    positions = jnp.arange(mask.shape[0], dtype="int32")
    targets = jnp.where(mask, numbers - 1, size)
    return jnp.zeros(size, "int32").at[targets].set(positions, mode="drop"), numbers[-1]


def new_list(start, size):
    return jnp.zeros((size, *start.shape[1:]), start.dtype).at[: start.shape[0]].set(start)


def extend(values, rows, count):
    return lax.dynamic_update_slice_in_dim(values, rows, count, axis=0)


def as_array(values, like):
    return values


def slice_rows(array, start, size):
    return lax.dynamic_slice_in_dim(array, start, size)


def zeros(shape, like):
    return jnp.zeros(shape)


def add_rows(array, index, rows):
    return array.at[index].add(rows)


def new_cache(shape):
    return jnp.zeros(shape)


def cache_put(cache, index, value):
    return lax.dynamic_update_index_in_dim(cache, value, index, axis=0)


def cache_get(cache, index, shape):
    return lax.dynamic_index_in_dim(cache, index, axis=0, keepdims=False)


def empty(shape, like):
    return jnp.zeros(shape)


def write_rows(array, start, rows):
    return lax.dynamic_update_slice_in_dim(array, rows, start, axis=1)


def gather_replicas(values):
    return values


def local_part(values, count):
    return values


# `take_rows` and `put_rows` index each shard separately, because indexing across shards would gather them.


def take_rows(variable, rows, shards):
    whole, rows = _by_shard(variable.value, shards), _within_shards(variable, rows, shards)
    return _concatenate(jax.vmap(lambda part, rows: part[rows])(whole, rows))


def put_rows(variable, rows, values, shards):
    def put_part(part, rows, values):
        return part.at[rows].set(values, indices_are_sorted=True, unique_indices=True)

    whole, rows = _by_shard(variable.value, shards), _within_shards(variable, rows, shards)
    variable.assign(_concatenate(jax.vmap(put_part)(whole, rows, _by_shard(values, shards))))


def assign(variable, value):
    variable.assign(value)


def _by_shard(array, shards):
    return array.reshape(shards, array.shape[0] // shards, *array.shape[1:])


def _within_shards(variable, rows, shards):
    return rows.reshape(shards, -1) % (variable.shape[0] // shards)


def _concatenate(array):
    return array.reshape(-1, *array.shape[2:])
