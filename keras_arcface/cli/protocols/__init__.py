"""Protocols of the command `evaluate`. Each evaluates all models on one set, and prints and reports a table."""

from keras_arcface.cli.protocols.camera_folders import reidentification
from keras_arcface.cli.protocols.ijb import templates
from keras_arcface.cli.protocols.labeled_images import retrieval
from keras_arcface.cli.protocols.pair_sets import verification

__all__ = ["reidentification", "retrieval", "templates", "verification"]
