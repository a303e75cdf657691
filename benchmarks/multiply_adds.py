"""Counts the multiply-adds of a network."""

import math


def multiply_adds(model):
    """Returns the number of multiply-adds of convolutions, dense layers and matrix products for one image.

    This is what most papers call FLOPs. Bias, normalization, activation, pooling and resizing are not counted.

    Args:
        model: functional model of one input, in which other models may be nested.
    """
    return sum(_of_operation(operation) for operation in model.operations)


def _of_operation(operation):
    import keras
    from keras import layers

    if isinstance(operation, keras.Model):
        return multiply_adds(operation)
    if isinstance(operation, (layers.Conv2D, layers.DepthwiseConv2D)):
        return math.prod(operation.output.shape[1:3]) * math.prod(operation.kernel.shape)
    if isinstance(operation, layers.Dense):
        return math.prod(operation.output.shape[1:-1]) * math.prod(operation.kernel.shape)
    if isinstance(operation, layers.EinsumDense):
        inputs = operation.equation.split(",")[0]
        sizes = dict(zip(inputs, operation.input.shape, strict=True))
        kernel, outputs = operation.equation.split(",")[1].split("->")
        sizes |= dict(zip(kernel, operation.kernel.shape, strict=True))
        contracted = set(inputs) - set(outputs)
        # A product without a sum is the scale of each channel or head.
        return math.prod(sizes[axis] for axis in {*outputs[1:], *contracted}) if contracted else 0
    if type(operation).__name__ == "Matmul":
        first, second = operation.input
        return math.prod(first.shape[1:]) * second.shape[-1]
    if isinstance(operation, layers.MultiHeadAttention):
        raise ValueError(f"MultiHeadAttention is not supported. Received: layer {operation.name!r}")
    return 0
