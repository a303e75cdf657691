"""Keras layers, models and tools for embeddings of faces and of other classes that do not occur in training.

`import keras_arcface` is fast, because it imports neither Keras nor TensorFlow; the first use of a name does. The
layers and models run on every backend of Keras. The subpackages `data`, `training`, `evaluation`, `gallery`, `serving`
and `pretrained` have more dependencies.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_arcface import backbones
    from keras_arcface import data
    from keras_arcface import evaluation
    from keras_arcface import faces
    from keras_arcface import gallery
    from keras_arcface import layers
    from keras_arcface import losses
    from keras_arcface import margins
    from keras_arcface import models
    from keras_arcface import plan
    from keras_arcface import pretrained
    from keras_arcface import recipes
    from keras_arcface import serving
    from keras_arcface import training
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
    "faces",
    "gallery",
    "layers",
    "losses",
    "margins",
    "models",
    "plan",
    "pretrained",
    "recipes",
    "serving",
    "training",
]

# The core imports keras and none of its backends, and registers its classes for `keras.saving.load_model`.
_CORE = ("backbones", "layers", "losses", "margins", "models")


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module 'keras_arcface' has no attribute {name!r}")
    if not name[0].isupper():
        return importlib.import_module(f"keras_arcface.{name}")
    _import_core()
    module = sys.modules["keras_arcface.models" if name == "RecognitionModel" else "keras_arcface.layers"]
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__():
    return sorted(__all__)


def _import_core():
    for name in _CORE:
        importlib.import_module(f"keras_arcface.{name}")


if "keras" in sys.modules:
    _import_core()
