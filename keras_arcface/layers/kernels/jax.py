"""What the loss in blocks needs of JAX, as tensorflow.py describes it. All of it is compiled as one."""

import jax
from jax import lax
from jax import numpy as jnp


def read(variable):
    return variable.value


def compiled(function, dtype):
    return jax.jit(function)


def block_limits():
    return (2**25, 2**12) if jax.default_backend() == "cpu" else (2**27, 2**15)


def fused(function):
    return function


def repeat(count, body, carry):
    if count == 1:
        return body(0, *carry)
    return lax.fori_loop(0, count, lambda i, carry: body(i, *carry), carry)


def product(first, second, dtype, transpose_first=False, transpose_second=False):
    first, second = first.T if transpose_first else first, second.T if transpose_second else second
    if dtype != "bfloat16":  # of TensorFloat-32 where the device has it, else of float32
        precision = lax.Precision.HIGHEST if dtype == "float32" else lax.Precision.HIGH
        return jnp.matmul(first, second, precision=precision)
    return jnp.matmul(first.astype(dtype), second.astype(dtype), preferred_element_type=jnp.float32)


def stack(shape):
    return jnp.zeros(shape)


def push(stack, number, value):
    return lax.dynamic_update_index_in_dim(stack, value, number, axis=0)


def at(stack, number, shape):
    return lax.dynamic_index_in_dim(stack, number, axis=0, keepdims=False)


def empty(shape, like):
    return jnp.zeros(shape)


def write(array, start, rows):
    return lax.dynamic_update_slice_in_dim(array, rows, start, axis=1)


def of_all_replicas(labels):
    return labels


def of_this_replica(values, count):
    return values


def take(variable, rows, shards):
    whole, rows = _by_shard(variable.value, shards), _within_shards(variable, rows, shards)
    return _whole(jax.vmap(lambda part, rows: part[rows])(whole, rows))


def put(variable, rows, values, shards):
    def put_part(part, rows, values):
        return part.at[rows].set(values, indices_are_sorted=True, unique_indices=True)

    whole, rows = _by_shard(variable.value, shards), _within_shards(variable, rows, shards)
    variable.assign(_whole(jax.vmap(put_part)(whole, rows, _by_shard(values, shards))))


# Each shard takes and gives rows of its own part: an index across shards would bring them together.


def _by_shard(array, shards):
    return array.reshape(shards, array.shape[0] // shards, *array.shape[1:])


def _within_shards(variable, rows, shards):
    return rows.reshape(shards, -1) % (variable.shape[0] // shards)


def _whole(array):
    return array.reshape(-1, *array.shape[2:])


def assign(variable, value):
    variable.assign(value)
