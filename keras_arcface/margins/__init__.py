"""Margins: functions that reduce the target cosine before the softmax.

A margin receives the cosine between an embedding and the center of its target class, and returns a smaller cosine for
the loss. `get` converts the `margin` argument of a head to a `Margin`.
"""

from keras_arcface.margins.base import Batch
from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import NoMargin
from keras_arcface.margins.base import get
from keras_arcface.margins.base import serialize
from keras_arcface.margins.class_size import ClassSizeMargin
from keras_arcface.margins.combined import CombinedMargin
from keras_arcface.margins.elastic import ElasticMargin
from keras_arcface.margins.quality import AdaptiveMargin
from keras_arcface.margins.quality import MagnitudeMargin

__all__ = [
    "AdaptiveMargin",
    "Batch",
    "ClassSizeMargin",
    "CombinedMargin",
    "ElasticMargin",
    "MagnitudeMargin",
    "Margin",
    "NoMargin",
    "get",
    "serialize",
]
