"""Backend functions for PyTorch, without compilation. `Backend` documents the functions."""

import torch


def read(variable):
    return variable.value


def jit(function, matmul_dtype, dynamic_shapes=False):
    return function


def fuse(function):
    return function


def chunk_limits():
    return (2**27, 2**15) if torch.cuda.is_available() else (2**25, 2**12)


def repeat(count, body, carry):
    for i in range(count):
        carry = body(i, *carry)
    return carry


def is_fast(dtype):
    return True  # bfloat16 inputs are rounded, and multiplied as float32


def matmul(first, second, dtype, transpose_first=False, transpose_second=False):
    first, second = first.T if transpose_first else first, second.T if transpose_second else second
    if dtype != "bfloat16":  # torch.backends.cuda.matmul.allow_tf32 controls TensorFloat-32
        return first @ second
    # A product in bfloat16 would be faster, but its sums would be bfloat16 too.
    low = getattr(torch, dtype)
    return first.to(low).float() @ second.to(low).float()


def list_fractions():
    return 2**-5, 2**-4


def row_sums(values):
    return values.sum(-1)


def fast_copy(rows):
    return rows


def rounding_errors(rows):
    # PyTorch may round the inputs of products of float32, and a GPU may truncate them to TensorFloat-32.
    error = {"highest": 0.0, "high": 2**-10, "medium": 2**-8}[torch.get_float32_matmul_precision()]
    return error * torch.linalg.vector_norm(rows, dim=1)


def fast_matmul(first, second):
    return first @ second.T


def find(mask, size):
    positions = torch.nonzero(mask)[:, 0].int()
    return positions[:size], torch.tensor(len(positions), device=mask.device)


def new_list(start, size):
    return [start]


def extend(values, rows, count):
    return [*values, rows]


def as_array(values, like):
    return torch.cat(values)


def slice_rows(array, start, size):
    return array[int(start) : int(start) + size]


def zeros(shape, like):
    return torch.zeros(shape, device=like.device)


def add_rows(array, index, rows):
    return array.index_add_(0, index, rows)


def new_cache(shape):
    return [None] * shape[0]


def cache_put(cache, index, value):
    cache[index] = value
    return cache


def cache_get(cache, index, shape):
    return cache[index]


def empty(shape, like):
    return torch.empty(shape, device=like.device)


def write_rows(array, start, rows):
    array[:, start : start + rows.shape[1]] = rows
    return array


def gather_replicas(values):
    return values


def local_part(values, count):
    return values


def take_rows(variable, rows, shards):
    return variable.value[rows]


def put_rows(variable, rows, values, shards):
    with torch.no_grad():
        variable.value[rows] = values


def assign(variable, value):
    variable.assign(value)
