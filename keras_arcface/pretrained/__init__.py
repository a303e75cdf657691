"""Loader of published weights as embedders of this package."""

from keras_arcface.pretrained.insightface import load_insightface

__all__ = ["load_insightface"]
