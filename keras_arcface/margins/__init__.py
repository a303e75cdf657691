"""Margins: maps of the target cosine, applied before the softmax.

A margin knows nothing of classes, batches or layers. It receives the cosine between an embedding and the center of
its own class and returns the smaller cosine that the network is asked to beat.
"""

from keras_arcface.margins.base import Batch
from keras_arcface.margins.base import Margin
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
]
