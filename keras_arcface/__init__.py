"""Keras layers, models and tools for embeddings of faces and of other classes that do not occur in training.

`import keras_arcface` imports the layers and models, which run on every backend of Keras. The subpackages `data`,
`training`, `evaluation`, `serving` and `pretrained` have more dependencies and are imported on first access.
"""

import importlib

from keras_arcface import backbones
from keras_arcface import layers
from keras_arcface import losses
from keras_arcface import margins
from keras_arcface import models
from keras_arcface.layers import AdaFace
from keras_arcface.layers import ArcFace
from keras_arcface.layers import ArcMarginProduct
from keras_arcface.layers import CosFace
from keras_arcface.layers import CosMarginProduct
from keras_arcface.layers import CurricularFace
from keras_arcface.layers import ElasticFace
from keras_arcface.layers import MagFace
from keras_arcface.layers import MarginProduct
from keras_arcface.layers import SphereFace
from keras_arcface.layers import SphereMarginProduct
from keras_arcface.layers import UniFace
from keras_arcface.models import RecognitionModel

__version__ = "0.1.0"

__all__ = [
    "AdaFace",
    "ArcFace",
    "ArcMarginProduct",
    "CosFace",
    "CosMarginProduct",
    "CurricularFace",
    "ElasticFace",
    "MagFace",
    "MarginProduct",
    "RecognitionModel",
    "SphereFace",
    "SphereMarginProduct",
    "UniFace",
    "backbones",
    "data",
    "evaluation",
    "layers",
    "losses",
    "margins",
    "models",
    "pretrained",
    "serving",
    "training",
]

_LAZY_SUBPACKAGES = ("data", "evaluation", "pretrained", "serving", "training")


def __getattr__(name):
    if name in _LAZY_SUBPACKAGES:
        return importlib.import_module(f"keras_arcface.{name}")
    raise AttributeError(f"module 'keras_arcface' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
