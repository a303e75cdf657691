"""Classification heads with a margin. One head, `MarginProduct`, and presets of it under the papers' names."""

from keras_arcface.layers.margin_product import MarginProduct
from keras_arcface.layers.presets import ArcFace
from keras_arcface.layers.presets import ArcMarginProduct
from keras_arcface.layers.presets import CosFace
from keras_arcface.layers.presets import CosMarginProduct
from keras_arcface.layers.presets import SphereFace
from keras_arcface.layers.presets import SphereMarginProduct

__all__ = [
    "ArcFace",
    "ArcMarginProduct",
    "CosFace",
    "CosMarginProduct",
    "MarginProduct",
    "SphereFace",
    "SphereMarginProduct",
]
