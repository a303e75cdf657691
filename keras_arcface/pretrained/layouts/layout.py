"""Parts that the layouts of several networks share."""

import math
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import keras

from keras_arcface._messages import cut
from keras_arcface.pretrained.weights import UnsupportedFileError
from keras_arcface.pretrained.weights import Weights

Shapes = Iterator[tuple[str, tuple[int, ...]]]

# IResNet-200, the largest published network, has 98 blocks. Building takes time for each block, and Keras recurses
# through all layers of a path, of which a block has up to 9.
MAX_BLOCKS = 100


class Network(NamedTuple):
    """Network that belongs to some weights.

    Attributes:
        backbone: randomly initialized backbone.
        dim: length of an embedding.
        module_name: function that maps the name of a Keras layer to the name of its module in the file.
        neck: neck of the embedder, as in `make_embedder`.
    """

    backbone: keras.Model
    dim: int
    module_name: Callable[[str], str]
    neck: str = "E"


class Layout(NamedTuple):
    """Names and shapes of the arrays of a network in files.

    Attributes:
        name: name of the network, for messages.
        markers: names of arrays, by which the layout is recognized.
        build: function from the weights, and whether BatchNorm is synchronized over replicas, to the `Network`. It
            checks all arrays before it builds the network, so that a network is not larger than its file.
    """

    name: str
    markers: tuple[str, ...]
    build: Callable[[Weights, bool], Network]


def count_blocks(weights: Weights, pattern: str) -> int:
    """Counts the distinct values of the first regex group over the weight names that match `pattern`."""
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})


def check_blocks(blocks: Sequence[int]) -> None:
    """Raises an UnsupportedFileError if a network has more than `MAX_BLOCKS` blocks."""
    if sum(blocks) > MAX_BLOCKS:
        raise UnsupportedFileError(f"expected at most {MAX_BLOCKS} blocks. Received: stages of {blocks} blocks")


def check_shapes(weights: Weights, shapes: Shapes) -> None:
    """Raises an UnsupportedFileError if the weights lack an array, or it has another shape."""
    for name, shape in shapes:
        weights.check_shape(name, shape)


def build_backbone(make_backbone: Callable[..., keras.Model], *args, **kwargs) -> keras.Model:
    """Builds a backbone, and converts the errors of Keras for a network that it does not support."""
    try:
        return make_backbone(*args, **kwargs)
    except (ValueError, RecursionError) as error:
        received = f"{type(error).__name__}: {cut(str(error))}"
        raise UnsupportedFileError(
            f"expected weights of a network that Keras can build. Received: {received}"
        ) from error


def image_size(weights: Weights, dense: str, channels: int, strides: int) -> tuple[int, int]:
    """Returns the height and width of the images.

    If the file does not contain them, they are those of a square that gives the dense layer after the last feature map
    its number of inputs.

    Args:
        weights: weights of the file.
        dense: name of the kernel of the dense layer.
        channels: number of channels of the last feature map.
        strides: total strides of the network.

    Raises:
        UnsupportedFileError: if no square gives this number.
    """
    if weights.input_size is not None:
        return weights.input_size
    shape = weights.shape(dense, rank=2)
    side = math.isqrt(shape[1] // channels)
    if side == 0 or side * side * channels != shape[1]:
        raise UnsupportedFileError(
            f"expected {dense} with {channels} * side^2 columns, for square images and {channels} channels after the "
            f"last stage. Received: shape {shape}"
        )
    return strides * side, strides * side


def feature_map_size(size: tuple[int, int], strides: int) -> tuple[int, int]:
    """Returns the height and width of the last feature map for the total strides of a network."""
    rows, columns = (-(-side // strides) for side in size)
    return rows, columns


def conv_norm_shapes(conv: str, norm: str, kernel: tuple[int, ...]) -> Shapes:
    """Yields the shapes of a convolution without bias and the BatchNorm after it."""
    yield f"{conv}.weight", kernel
    yield from norm_shapes(norm, kernel[0])


def norm_shapes(name: str, channels: int) -> Shapes:
    """Yields the shapes of a BatchNorm."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)


def dense_shapes(name: str, kernel: tuple[int, ...]) -> Shapes:
    """Yields the shapes of a dense layer, a convolution with bias or a LayerNorm."""
    yield f"{name}.weight", kernel
    yield f"{name}.bias", kernel[:1]
