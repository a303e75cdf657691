"""Partial FC: training steps that use a sample of the class centers."""

from keras_arcface.layers.partial_fc.centers import PartialFC

__all__ = ["PartialFC"]
