"""Conversion, alignment and embedding on Apache Beam, on one machine or on a cluster."""

from keras_arcface.beam.inference import SavedModelHandler
from keras_arcface.beam.runner import BeamRunner

__all__ = ["BeamRunner", "SavedModelHandler"]
