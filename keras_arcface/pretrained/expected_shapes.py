"""Names and shapes of all weights of an IResNet or a MobileFaceNet in arcface_torch.

They are compared with a file before the network is built, because building takes seconds and memory.
"""

from collections.abc import Iterator
from collections.abc import Sequence

from keras_arcface.backbones.mobilefacenet import STAGES

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def iresnet_shapes(width: int, blocks: Sequence[int], dim: int, feature_map: tuple[int, int]) -> Shapes:
    """Yields the name and shape of each weight of an IResNet.

    Args:
        width: number of channels of the first stage.
        blocks: number of blocks in each stage.
        dim: length of an embedding.
        feature_map: height and width of the last feature map.
    """
    yield from _conv_norm("conv1", "bn1", (width, 3, 3, 3))
    yield "prelu.weight", (width,)
    inputs = width
    for stage, count in enumerate(blocks):
        filters = width * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            yield from _conv_norm(f"{name}.conv1", f"{name}.bn2", (filters, inputs, 3, 3))
            yield from _conv_norm(f"{name}.conv2", f"{name}.bn3", (filters, filters, 3, 3))
            if block == 0:
                yield from _conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", (filters, inputs, 1, 1))
            yield from _norm(f"{name}.bn1", inputs)
            yield f"{name}.prelu.weight", (filters,)
            inputs = filters
    yield from _norm("bn2", inputs)
    yield "fc.weight", (dim, inputs * feature_map[0] * feature_map[1])
    yield from _norm("features", dim)


def mobilefacenet_shapes(
    width: int, blocks: Sequence[int], stem_inputs: int, dim: int, feature_map: tuple[int, int]
) -> Shapes:
    """Yields the name and shape of each weight of a MobileFaceNet.

    Args:
        width: number of channels of the first stages.
        blocks: number of blocks at each resolution, as in `backbones.MobileFaceNet`.
        stem_inputs: number of input channels in each group of the single convolution at the first resolution.
        dim: length of an embedding.
        feature_map: height and width of the last feature map.
    """
    yield from _conv_norm_prelu("layers.0", (width, 3, 3, 3))
    if blocks[0] > 1:
        for block in range(blocks[0]):
            yield from _bottleneck(f"layers.1.layers.{block}", width, 128, width)
    else:
        yield from _conv_norm_prelu("layers.1", (width, stem_inputs, 3, 3))
    inputs = width
    for number, stage in enumerate(STAGES, 1):
        channels = stage.channels * width // 64
        if stage.strides > 1:
            yield from _bottleneck(f"layers.{number + 1}", inputs, stage.expanded, channels)
        else:
            for block in range(blocks[number // 2]):
                yield from _bottleneck(f"layers.{number + 1}.layers.{block}", inputs, stage.expanded, channels)
        inputs = channels
    yield from _conv_norm_prelu("conv_sep", (512, inputs, 1, 1))
    yield from _conv_norm("features.layers.0.layers.0", "features.layers.0.layers.1", (512, 1, *feature_map))
    yield "features.layers.2.weight", (dim, 512)
    yield from _norm("features.layers.3", dim)


def _bottleneck(name, inputs, expanded, channels):
    yield from _conv_norm_prelu(f"{name}.layers.0", (expanded, inputs, 1, 1))
    yield from _conv_norm_prelu(f"{name}.layers.1", (expanded, 1, 3, 3))
    yield from _conv_norm(f"{name}.layers.2.layers.0", f"{name}.layers.2.layers.1", (channels, expanded, 1, 1))


def _conv_norm_prelu(name, kernel):
    yield from _conv_norm(f"{name}.layers.0", f"{name}.layers.1", kernel)
    yield f"{name}.layers.2.weight", kernel[:1]


def _conv_norm(conv, norm, kernel):
    yield f"{conv}.weight", kernel
    yield from _norm(norm, kernel[0])


def _norm(name, channels):
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
