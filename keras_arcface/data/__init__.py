"""Images with identity labels: read from what people have, written as TFRecords, read back as `tf.data`."""

from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.pairs import PairSet
from keras_arcface.data.reader import load_dataset
from keras_arcface.data.sources import ImageFolder
from keras_arcface.data.writer import write_dataset

__all__ = ["DatasetInfo", "ImageFolder", "PairSet", "load_dataset", "load_info", "write_dataset"]
