"""What the loss in blocks needs of PyTorch, as tensorflow.py describes it."""

import torch


def read(variable):
    return variable.value


def compiled(function, dtype):
    return function


def block_limits():
    return (2**27, 2**15) if torch.cuda.is_available() else (2**25, 2**12)


def fused(function):
    return function


def repeat(count, body, carry):
    for i in range(count):
        carry = body(i, *carry)
    return carry


def product(first, second, dtype, transpose_first=False, transpose_second=False):
    first, second = first.T if transpose_first else first, second.T if transpose_second else second
    if dtype != "bfloat16":  # torch.backends.cuda.matmul.allow_tf32 says whether of TensorFloat-32
        return first @ second
    # Not faster, as a product in bfloat16 would give its sums in bfloat16.
    low = getattr(torch, dtype)
    return first.to(low).float() @ second.to(low).float()


def stack(shape):
    return [None] * shape[0]


def push(stack, number, value):
    stack[number] = value
    return stack


def at(stack, number, shape):
    return stack[number]


def empty(shape, like):
    return torch.empty(shape, device=like.device)


def write(array, start, rows):
    array[:, start : start + rows.shape[1]] = rows
    return array


def of_all_replicas(values):
    return values


def of_this_replica(values, count):
    return values
