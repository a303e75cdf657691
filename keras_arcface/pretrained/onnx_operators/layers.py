"""Operators with weights and pooling, which become layers of Keras."""

import math

import numpy as np
from keras import layers
from keras import ops

from keras_arcface.pretrained.onnx_operators.builder import Node
from keras_arcface.pretrained.onnx_operators.builder import Value
from keras_arcface.pretrained.onnx_operators.builder import apply
from keras_arcface.pretrained.onnx_operators.values import Symbol
from keras_arcface.pretrained.onnx_operators.values import channels_last
from keras_arcface.pretrained.onnx_operators.values import describe
from keras_arcface.pretrained.weights import UnsupportedFileError

# As in backbones/building_blocks.py: a bug of oneDNN with fewer input channels.
_ONEDNN_BLOCK = 16


def conv(node: Node, x: Value, kernel: Value, bias: Value | None = None) -> Symbol:
    """Convolves feature maps, with groups, dilations and any padding."""
    x = node.symbol(x).with_channels_last()
    kernel = node.weight(kernel, 1)
    groups, channels = node.attribute("group", 1), x.shape[1]
    if kernel.ndim != 4 or kernel.shape[1] * groups != channels or groups < 1 or kernel.shape[0] % groups:
        raise UnsupportedFileError(
            f"expected a kernel (filters, channels / groups, height, width) for {channels} channels in {groups} "
            f"groups. Received: shape {kernel.shape}"
        )
    filters, size = kernel.shape[0], kernel.shape[2:]
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    if size == (1, 1) and max(strides) > 1 and channels < _ONEDNN_BLOCK and not any(node.attribute("pads", [0])):
        x = x.replaced(layers.AveragePooling2D(1, strides)(x.tensor))
        strides = (1, 1)
    x, padding = _padded(x, _pads(node, x, size, strides, dilations), size, strides, dilations)
    options = {
        "strides": strides,
        "dilation_rate": dilations,
        "padding": padding,
        "use_bias": bias is not None,
        "name": node.name(),
    }
    # TensorFlow has no depthwise convolution with different strides, or with strides and dilations.
    if groups == channels > 1 and strides[0] == strides[1] and 1 in (max(strides), max(dilations)):
        layer = layers.DepthwiseConv2D(size, depth_multiplier=filters // channels, **options)
        weights = [kernel.reshape(channels, -1, *size).transpose(2, 3, 0, 1)]
    else:
        layer = layers.Conv2D(filters, size, groups=groups, **options)
        weights = [kernel.transpose(2, 3, 1, 0)]
    if bias is not None:
        weights.append(node.weight(bias, 2, (filters,)))
    return apply(layer, x, weights)


def batch_norm(node: Node, x: Value, scale: Value, offset: Value, mean: Value, variance: Value) -> Symbol:
    """Normalizes channels by stored statistics, or in training by those of the batch."""
    x = node.symbol(x)
    shape = x.shape[1:2]
    arrays = [node.weight(array, index, shape) for index, array in enumerate((scale, offset, mean, variance), 1)]
    layer = layers.BatchNormalization(
        axis=x.axis(1), momentum=0.9, epsilon=node.attribute("epsilon", 1e-5), name=node.name()
    )
    return apply(layer, x, arrays)


def layer_norm(node: Node, x: Value, scale: Value, offset: Value | None = None) -> Symbol:
    """Normalizes the last axes."""
    x = node.symbol(x).in_order()
    first = x.axis(node.attribute("axis", -1))
    if x.has_batch(0) is False or first == 0:
        raise UnsupportedFileError(f"expected axes behind the batch. Received: axis={first} of {describe(x.shape)}")
    arrays = [node.weight(scale, 1, x.shape[first:])]
    if offset is not None:
        arrays.append(node.weight(offset, 2, x.shape[first:]))
    layer = layers.LayerNormalization(
        axis=list(range(first, x.rank)),
        epsilon=node.attribute("epsilon", 1e-5),
        center=offset is not None,
        name=node.name(),
    )
    return apply(layer, x, arrays)


def instance_norm(node: Node, x: Value, scale: Value, offset: Value) -> Symbol:
    """Normalizes each channel of each image."""
    x = node.symbol(x)
    arrays = [node.weight(array, index, x.shape[1:2]) for index, array in enumerate((scale, offset), 1)]
    layer = layers.GroupNormalization(
        groups=-1, axis=x.axis(1), epsilon=node.attribute("epsilon", 1e-5), name=node.name()
    )
    return apply(layer, x, arrays)


def prelu(node: Node, x: Value, slope: Value) -> Symbol:
    """Multiplies negative values by slopes."""
    x = node.symbol(x)
    slope = node.constant(slope, "slopes")
    if slope.ndim > x.rank:
        raise UnsupportedFileError(f"expected slopes for {describe(x.shape)}. Received: shape {slope.shape}")
    if x.rank == 4:
        x, slope = x.with_channels_last(), channels_last(slope)
    slope = slope.reshape((1,) * (x.rank - slope.ndim) + slope.shape)
    shape = x.tensor.shape
    if any(given not in (1, side) for given, side in zip(slope.shape, shape, strict=True)) or shape[0] is not None:
        raise UnsupportedFileError(f"expected slopes for {describe(x.shape)}. Received: shape {slope.shape}")
    shared = [axis for axis in range(1, x.rank) if slope.shape[axis] != shape[axis]]
    layer = layers.PReLU(shared_axes=shared or None, name=node.name())
    return apply(layer, x, [node.weight(slope[0], 1)])


def gemm(node: Node, x: Value, kernel: Value, bias: Value | None = None) -> Symbol:
    """Applies a dense layer to vectors."""
    x = node.symbol(x)
    kernel = node.constant(kernel, "weights in input 1")
    if node.attribute("transA", 0) or x.rank != 2 or kernel.ndim != 2:
        raise UnsupportedFileError(
            f"expected a product of vectors (n, values) and a matrix. Received: transA={node.attribute('transA', 0)}, "
            f"shapes {describe(x.shape)} and {kernel.shape}"
        )
    kernel = node.attribute("alpha", 1.0) * (kernel.T if node.attribute("transB", 0) else kernel)
    if bias is not None:
        bias = node.constant(bias, "bias in input 2")
        if bias.size not in (1, kernel.shape[1]):
            raise UnsupportedFileError(f"expected {kernel.shape[1]} values of input 2. Received: shape {bias.shape}")
        bias = np.broadcast_to(node.attribute("beta", 1.0) * bias.ravel(), kernel.shape[1:])
    return _dense(node, x, kernel, bias)


def matmul(node: Node, x: Value, y: Value) -> Symbol:
    """Multiplies matrices. A constant on the right becomes a dense layer, with the bias that is added to its output."""
    if isinstance(x, Symbol) and isinstance(y, np.ndarray) and y.ndim == 2:
        bias = _take_bias(node, y.shape[1])
        return _dense(node, x.in_order(), y, bias)
    x, y = node.symbol(x, 0).in_order(), node.symbol(y, 1).in_order()
    shapes = x.shape[:-2], y.shape[:-2]
    if min(x.rank, y.rank) < 2 or x.shape[-1] != y.shape[-2] or x.has_batch(-1) or y.has_batch(-2):
        raise UnsupportedFileError(
            f"expected matrices that can be multiplied. Received: shapes {describe(x.shape)} and {describe(y.shape)}"
        )
    np.broadcast_shapes(*shapes)
    return Symbol(ops.matmul(x.tensor, y.tensor), _multiple(x, y))


def _multiple(*symbols):
    return max([symbol.multiple for symbol in symbols if None in symbol.tensor.shape], default=1)


def _take_bias(node, units):
    """Returns the constant that the only next node adds to the output, and gives its output to that node."""
    output = node.proto.output[0]
    graph, values = node.builder.graph, node.builder.values
    following = graph.direct_consumers(output)
    if output in graph.outputs(2) or len(following) != 1 or following[0].op_type != "Add":
        return None
    others = [name for name in following[0].input if name != output]
    bias = values.get(others[0]) if len(others) == 1 else None
    if not isinstance(bias, np.ndarray) or bias.shape != (units,):
        return None
    node.builder.merged[following[0].output[0]] = output
    return bias


def _dense(node, x, kernel, bias):
    kernel = node.weight(kernel, 1)
    if x.shape[-1] != kernel.shape[0] or x.rank < 2:
        raise UnsupportedFileError(
            f"expected a matrix with {describe(x.shape[-1:])} rows. Received: shape {kernel.shape}"
        )
    layer = layers.Dense(kernel.shape[1], use_bias=bias is not None, name=node.name())
    return apply(layer, x, [kernel] if bias is None else [kernel, node.weight(bias, 2)])


def max_pool(node: Node, x: Value) -> Symbol:
    """Takes the maximum of windows."""
    x = node.symbol(x).with_channels_last()
    size, strides, dilations = _pair(node, "kernel_shape", None), _pair(node, "strides"), _pair(node, "dilations")
    _expect_no_dilations(dilations)
    pads = _pads(node, x, size, strides, dilations)
    lowest = float(np.finfo(np.float32).min)
    x, padding = _padded(x, pads, size, strides, dilations, lowest)
    return x.replaced(layers.MaxPooling2D(size, strides, padding)(x.tensor))


def average_pool(node: Node, x: Value) -> Symbol:
    """Takes the mean of windows."""
    x = node.symbol(x).with_channels_last()
    size, strides, dilations = _pair(node, "kernel_shape", None), _pair(node, "strides"), _pair(node, "dilations")
    _expect_no_dilations(dilations)
    pads = _pads(node, x, size, strides, dilations)
    if not np.any(pads):
        padding = "valid"
    elif not node.attribute("count_include_pad", 0) and pads == _same_pads(x, size, strides, dilations):
        padding = "same"  # leaves the padding out of the mean
    elif node.attribute("count_include_pad", 0) and not node.attribute("ceil_mode", 0):
        x, padding = x.replaced(layers.ZeroPadding2D(pads)(x.tensor)), "valid"
    else:
        raise UnsupportedFileError(f"expected a mean of windows with all their pixels. Received: pads={pads}")
    return x.replaced(layers.AveragePooling2D(size, strides, padding)(x.tensor))


def _expect_no_dilations(dilations):
    if dilations != (1, 1):
        raise UnsupportedFileError(f"expected windows of adjacent pixels. Received: dilations={dilations}")


def _pair(node, name, default=(1, 1)):
    values = node.attribute(name, default)
    if values is None or len(values) != 2 or min(values) < 1:
        raise UnsupportedFileError(f"expected two positive values of {name}. Received: {name}={values and values[:5]}")
    return tuple(values)


def _same_pads(x, size, strides, dilations):
    """Returns the padding of the two axes with which Keras keeps the size of a feature map, up to the strides."""
    pads = []
    for side, kernel, stride, dilation in zip(x.shape[2:], size, strides, dilations, strict=True):
        total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _pads(node, x, size, strides, dilations):
    """Returns the padding of the two axes, each in front and behind."""
    automatic = node.attribute("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = _same_pads(x, size, strides, dilations)
        return pads if automatic == b"SAME_UPPER" else [(behind, before) for before, behind in pads]
    values = node.attribute("pads", [0] * 4) if automatic == b"NOTSET" else [0] * 4
    if len(values) != 4 or min(values) < 0:
        raise UnsupportedFileError(f"expected four pads that are not negative. Received: pads={values[:10]}")
    pads = [(values[0], values[2]), (values[1], values[3])]
    if node.attribute("ceil_mode", 0):
        pads = [
            (before, behind + _missing(side + before + behind, kernel, stride, side + before))
            for (before, behind), side, kernel, stride in zip(pads, x.shape[2:], size, strides, strict=True)
        ]
    return pads


def _missing(side, kernel, stride, end):
    """Returns the number of values that the last window of a padded axis lacks, if it starts before `end`."""
    count = math.ceil((side - kernel) / stride) + 1
    if (count - 1) * stride >= end:
        count -= 1
    return max((count - 1) * stride + kernel - side, 0)


def _padded(x, pads, size, strides, dilations, value=0.0):
    """Pads a feature map if necessary, and returns it with the padding of the Keras layer."""
    if not np.any(pads):
        return x, "valid"
    if pads == _same_pads(x, size, strides, dilations):
        return x, "same"
    if value == 0:
        return x.replaced(layers.ZeroPadding2D(pads)(x.tensor)), "valid"
    return x.replaced(ops.pad(x.tensor, [(0, 0), *pads, (0, 0)], constant_values=value)), "valid"
