"""Grouping of faces by person."""

from keras_arcface.gallery.album import write_album
from keras_arcface.gallery.clustering import cluster
from keras_arcface.gallery.constraints import ContradictoryPairs

__all__ = ["ContradictoryPairs", "cluster", "write_album"]
