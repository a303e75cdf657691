"""Classification heads: `MarginProduct`, presets of it under the papers' names, and plain softmax to compare with."""

from keras_arcface.layers.margin_product import MarginProduct
from keras_arcface.layers.negatives import CurricularNegatives
from keras_arcface.layers.negatives import MisclassifiedNegatives
from keras_arcface.layers.negatives import Negatives
from keras_arcface.layers.presets import ArcFace
from keras_arcface.layers.presets import ArcMarginProduct
from keras_arcface.layers.presets import CosFace
from keras_arcface.layers.presets import CosMarginProduct
from keras_arcface.layers.presets import SphereFace
from keras_arcface.layers.presets import SphereMarginProduct
from keras_arcface.layers.softmax_product import SoftmaxProduct
from keras_arcface.layers.unified import UniFace

__all__ = [
    "ArcFace",
    "ArcMarginProduct",
    "CosFace",
    "CosMarginProduct",
    "CurricularNegatives",
    "MarginProduct",
    "MisclassifiedNegatives",
    "Negatives",
    "SoftmaxProduct",
    "SphereFace",
    "SphereMarginProduct",
    "UniFace",
]
