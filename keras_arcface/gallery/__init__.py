"""Galleries of people: enroll embeddings and search them, choose thresholds, group faces without names."""

from keras_arcface.gallery.album import write_album
from keras_arcface.gallery.calibration import Match
from keras_arcface.gallery.clustering import cluster
from keras_arcface.gallery.errors import EmbedderMismatchError
from keras_arcface.gallery.errors import GalleryFileError
from keras_arcface.gallery.errors import StaleThresholdWarning
from keras_arcface.gallery.errors import UnknownPersonError
from keras_arcface.gallery.gallery import Gallery
from keras_arcface.gallery.milvus_gallery import MilvusGallery
from keras_arcface.gallery.records import EnrolledImage
from keras_arcface.gallery.thresholds import IdentificationThreshold
from keras_arcface.gallery.thresholds import extrapolate_threshold
from keras_arcface.gallery.thresholds import identification_threshold

__all__ = [
    "EmbedderMismatchError",
    "EnrolledImage",
    "Gallery",
    "GalleryFileError",
    "IdentificationThreshold",
    "Match",
    "MilvusGallery",
    "StaleThresholdWarning",
    "UnknownPersonError",
    "cluster",
    "extrapolate_threshold",
    "identification_threshold",
    "write_album",
]
