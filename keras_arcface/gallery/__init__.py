"""Grouping of faces by person."""

from keras_arcface.gallery.album import write_album
from keras_arcface.gallery.clustering import cluster

__all__ = ["cluster", "write_album"]
