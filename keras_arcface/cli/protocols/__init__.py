"""Protocols of the command `evaluate`. Each evaluates all models on one set, and prints and reports a table."""

from keras_arcface.cli.protocols.camera_folders import reidentification
from keras_arcface.cli.protocols.ijb import identification
from keras_arcface.cli.protocols.ijb import templates
from keras_arcface.cli.protocols.labeled_images import retrieval
from keras_arcface.cli.protocols.megaface import distractors
from keras_arcface.cli.protocols.pair_sets import verification
from keras_arcface.cli.protocols.retrieval_sets import cars196
from keras_arcface.cli.protocols.retrieval_sets import cub200
from keras_arcface.cli.protocols.retrieval_sets import in_shop
from keras_arcface.cli.protocols.retrieval_sets import online_products
from keras_arcface.cli.protocols.rfw import rfw
from keras_arcface.cli.protocols.ytf import videos

__all__ = [
    "cars196",
    "cub200",
    "distractors",
    "identification",
    "in_shop",
    "online_products",
    "reidentification",
    "retrieval",
    "rfw",
    "templates",
    "verification",
    "videos",
]
