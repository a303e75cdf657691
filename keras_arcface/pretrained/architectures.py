"""Recognition of a network, and of the names of its layers, from its weights."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_arcface import backbones
from keras_arcface._messages import cut
from keras_arcface.pretrained.expected_shapes import iresnet_shapes
from keras_arcface.pretrained.expected_shapes import mobilefacenet_shapes
from keras_arcface.pretrained.weights import UnsupportedFileError
from keras_arcface.pretrained.weights import Weights

# Both networks halve the resolution of the images four times.
_TOTAL_STRIDES = 16

# IResNet-200, the largest published network, has 98 blocks. Building takes time for each block, and Keras recurses
# through all layers of a path, of which a block has up to 9.
MAX_BLOCKS = 100


class Architecture(NamedTuple):
    """Network that belongs to some weights.

    Attributes:
        backbone: randomly initialized backbone.
        dim: length of an embedding.
        module_name: function that maps the name of a Keras layer to the name in arcface_torch.
    """

    backbone: keras.Model
    dim: int
    module_name: Callable[[str], str]


def recognize(weights: Weights, synchronized: bool) -> Architecture:
    """Builds the network that belongs to the weights.

    Args:
        weights: weights of the file.
        synchronized: whether BatchNorm is synchronized over replicas.

    Returns:
        The `Architecture`.

    Raises:
        UnsupportedFileError: if the weights are neither those of an IResNet nor of a MobileFaceNet, lack an array of
            the network, contain one of another shape, or have more than `MAX_BLOCKS` blocks. All are checked before the
            network is built, so that a network is not larger than its file.
    """
    if "conv1.weight" in weights and "layer4.0.conv1.weight" in weights:
        return _iresnet(weights, synchronized)
    if "layers.0.layers.0.weight" in weights and "conv_sep.layers.0.weight" in weights:
        return _mobilefacenet(weights, synchronized)
    raise UnsupportedFileError(
        "expected an IResNet (conv1.weight, layer4.0.conv1.weight ...) or a MobileFaceNet (layers.0.layers.0.weight, "
        f"conv_sep.layers.0.weight ...) of arcface_torch. Received: {len(weights)} arrays, among them "
        f"{', '.join(sorted(weights)[:5]) or 'none'}"
    )


def _iresnet(weights, synchronized):
    width = weights.shape("conv1.weight", rank=4)[0]
    dim, features = weights.shape("fc.weight", rank=2)
    size = weights.input_size
    if size is None:
        side = math.isqrt(features // (8 * width))
        if side == 0 or side * side * 8 * width != features:
            raise UnsupportedFileError(
                f"expected fc.weight with 8 * {width} * side^2 columns, for square images and {width} channels in the "
                f"first stage. Received: shape {(dim, features)}"
            )
        size = (_TOTAL_STRIDES * side, _TOTAL_STRIDES * side)
    # A stage without blocks would keep the resolution, and the dense layer would be larger than in the file.
    blocks = [max(_count_matches(weights, rf"layer{stage}\.(\d+)\."), 1) for stage in (1, 2, 3, 4)]
    _check_blocks(blocks)
    _check_shapes(weights, iresnet_shapes(width, blocks, dim, _feature_map(size)))
    backbone = _build(backbones.IResNet, blocks, width, (*size, 3), synchronized=synchronized)
    return Architecture(backbone, dim, _iresnet_module_name)


def _iresnet_module_name(layer):
    block = re.fullmatch(r"stage(\d+)_block(\d+)_(\w+)", layer)
    if block:
        stage, number, part = block.groups()
        part = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(part, part)
        return f"layer{stage}.{int(number) - 1}.{part}"
    return {
        "stem_conv": "conv1",
        "stem_bn": "bn1",
        "stem_prelu": "prelu",
        "neck_bn": "bn2",
        "neck_dense": "fc",
        "embedding": "features",
    }[layer]


def _mobilefacenet(weights, synchronized):
    width = weights.shape("layers.0.layers.0.weight", rank=4)[0]
    rows, columns = weights.shape("features.layers.0.layers.0.weight", rank=4)[2:]
    dim = weights.shape("features.layers.2.weight", rank=2)[0]
    size = weights.input_size or (_TOTAL_STRIDES * rows, _TOTAL_STRIDES * columns)
    blocks = [_count_matches(weights, rf"layers\.{index}\.layers\.(\d+)\.") for index in (1, 3, 5, 7)]
    stem_inputs, stem_groups = 1, None
    if "layers.1.layers.0.weight" in weights:  # the first stage is a single convolution instead of bottlenecks
        stem_inputs = weights.shape("layers.1.layers.0.weight", rank=4)[1]
        if width % stem_inputs:
            raise UnsupportedFileError(
                f"expected layers.1.layers.0.weight for groups of equal size of {width} channels. "
                f"Received: groups of {stem_inputs} channels"
            )
        stem_groups = width // stem_inputs
        blocks[0] = 1
    _check_blocks(blocks)
    _check_shapes(weights, mobilefacenet_shapes(width, blocks, stem_inputs, dim, _feature_map(size)))
    backbone = _build(
        backbones.MobileFaceNet,
        width,
        (*size, 3),
        synchronized=synchronized,
        blocks=blocks,
        stem_groups=stem_groups,
    )
    return Architecture(backbone, dim, _mobilefacenet_module_name)


def _mobilefacenet_module_name(layer):
    bottleneck = re.fullmatch(r"(?:stage(\d)|stem)_block(\d+)_(expand|depthwise|project)(_\w+)?", layer)
    if bottleneck:
        stage, number, part, kind = bottleneck.groups()
        stage = int(stage or 0)
        module = f"layers.{stage + 1}"
        if stage % 2 == 0:  # stages that keep the resolution are lists of blocks
            module += f".layers.{int(number) - 1}"
        return f"{module}.layers.{('expand', 'depthwise', 'project').index(part)}.layers.{_LAYER_INDICES[kind]}"
    part = re.fullmatch(r"(stem_depthwise|stem_grouped|stem|last)(_conv|_bn|_prelu)?", layer)
    if part:
        module = {"stem": "layers.0", "last": "conv_sep"}.get(part[1], "layers.1")
        return f"{module}.layers.{_LAYER_INDICES[part[2]]}"
    return {
        "global_depthwise": "features.layers.0.layers.0",
        "neck_bn": "features.layers.0.layers.1",
        "neck_dense": "features.layers.2",
        "embedding": "features.layers.3",
    }[layer]


# Indices of convolution, BatchNorm and PReLU in the lists of layers of arcface_torch.
_LAYER_INDICES = {None: 0, "_conv": 0, "_bn": 1, "_prelu": 2}


def _feature_map(size):
    """Returns the height and width of the last feature map."""
    return tuple(-(-side // _TOTAL_STRIDES) for side in size)


def _count_matches(weights, pattern):
    """Counts the distinct values of the first regex group over the weight names that match `pattern`."""
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})


def _check_blocks(blocks):
    if sum(blocks) > MAX_BLOCKS:
        raise UnsupportedFileError(f"expected at most {MAX_BLOCKS} blocks. Received: stages of {blocks} blocks")


def _check_shapes(weights, shapes):
    for name, shape in shapes:
        weights.check_shape(name, shape)


def _build(make_backbone, *args, **kwargs):
    """Builds a backbone, and converts the errors of Keras for a network that it does not support."""
    try:
        return make_backbone(*args, **kwargs)
    except (ValueError, RecursionError) as error:
        received = f"{type(error).__name__}: {cut(str(error))}"
        raise UnsupportedFileError(
            f"expected weights of a network that Keras can build. Received: {received}"
        ) from error
