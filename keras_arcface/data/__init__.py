"""Images with identity labels: read from what people have, written as TFRecords, read back as `tf.data`."""

from keras_arcface.data import augment
from keras_arcface.data.alignment import align
from keras_arcface.data.checking import check_dataset
from keras_arcface.data.ijb import IjbSet
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.pairs import PairSet
from keras_arcface.data.reader import load_dataset
from keras_arcface.data.recordio import RecordIO
from keras_arcface.data.reid import CameraFolder
from keras_arcface.data.selection import Relabeled
from keras_arcface.data.selection import split_identities
from keras_arcface.data.selection import with_at_least
from keras_arcface.data.sources import ImageFolder
from keras_arcface.data.sources import ImageList
from keras_arcface.data.stores import TFRecords
from keras_arcface.data.writer import write_dataset

__all__ = [
    "CameraFolder",
    "DatasetInfo",
    "IjbSet",
    "ImageFolder",
    "ImageList",
    "PairSet",
    "RecordIO",
    "Relabeled",
    "TFRecords",
    "align",
    "augment",
    "check_dataset",
    "load_dataset",
    "load_info",
    "split_identities",
    "with_at_least",
    "write_dataset",
]
