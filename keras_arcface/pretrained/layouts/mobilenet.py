"""MobileNetV1 of SFace. The names of the arrays are those of the Keras layers, because the ONNX file has none."""

from keras_arcface import backbones
from keras_arcface.backbones.mobilenet import STAGES
from keras_arcface.pretrained.layouts.layout import Layout
from keras_arcface.pretrained.layouts.layout import Network
from keras_arcface.pretrained.layouts.layout import Shapes
from keras_arcface.pretrained.layouts.layout import build_backbone
from keras_arcface.pretrained.layouts.layout import check_shapes
from keras_arcface.pretrained.layouts.layout import conv_norm_shapes
from keras_arcface.pretrained.layouts.layout import feature_map_size
from keras_arcface.pretrained.layouts.layout import image_size
from keras_arcface.pretrained.layouts.layout import norm_shapes

_STRIDES = 16


def mobilenet_shapes(width: int, dim: int, feature_map: tuple[int, int]) -> Shapes:
    """Yields the name and shape of each weight of a MobileNetV1.

    Args:
        width: number of channels of the first convolution.
        dim: length of an embedding.
        feature_map: height and width of the last feature map.
    """
    yield from _unit("stem_conv", "stem", (width, 3, 3, 3))
    inputs = width
    for stage, multiples in enumerate(STAGES, 1):
        for block, multiple in enumerate(multiples, 1):
            depthwise, pointwise = (f"stage{stage}_block{block}_{part}" for part in ("depthwise", "pointwise"))
            yield from _unit(depthwise, depthwise, (inputs, 1, 3, 3))
            yield from _unit(pointwise, pointwise, (multiple * width, inputs, 1, 1))
            inputs = multiple * width
    yield from norm_shapes("neck_bn", inputs)
    yield "neck_dense.weight", (dim, inputs * feature_map[0] * feature_map[1])
    yield from norm_shapes("embedding", dim)


def _unit(conv, unit, kernel):
    yield from conv_norm_shapes(conv, f"{unit}_bn", kernel)
    yield f"{unit}_prelu.weight", kernel[:1]


def _mobilenet(weights, synchronized):
    width = weights.shape("stem_conv.weight", rank=4)[0]
    dim = weights.shape("neck_dense.weight", rank=2)[0]
    size = image_size(weights, "neck_dense.weight", 32 * width, _STRIDES)
    check_shapes(weights, mobilenet_shapes(width, dim, feature_map_size(size, _STRIDES)))
    backbone = build_backbone(backbones.MobileNetV1, width, (*size, 3), synchronized=synchronized)
    return Network(backbone, dim, lambda layer: layer)


SFACE = Layout("SFace", ("stem_conv.weight", "stage5_block2_pointwise.weight"), _mobilenet)
