"""Sources of labeled images in many formats, conversion to TFRecords, and `tf.data` pipelines."""

from keras_arcface._alignment import align
from keras_arcface.data import augment
from keras_arcface.data.camera_folder import CameraFolder
from keras_arcface.data.cars196 import Cars196
from keras_arcface.data.cub200 import Cub200
from keras_arcface.data.feature_files import FeatureFiles
from keras_arcface.data.feature_files import write_feature_files
from keras_arcface.data.ijb import IjbSet
from keras_arcface.data.ijb_galleries import IjbIdentificationSet
from keras_arcface.data.image_check import ImageCheck
from keras_arcface.data.image_check import check_images
from keras_arcface.data.image_folder import ImageFolder
from keras_arcface.data.image_list import ImageList
from keras_arcface.data.in_shop import InShop
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.integrity import check_dataset
from keras_arcface.data.megaface import MegaFaceSet
from keras_arcface.data.online_products import StanfordOnlineProducts
from keras_arcface.data.opening import open_source
from keras_arcface.data.pair_images import PairImages
from keras_arcface.data.pairs import PairSet
from keras_arcface.data.reader import load_dataset
from keras_arcface.data.recordio import RecordIO
from keras_arcface.data.resized import Resized
from keras_arcface.data.rfw import RfwSet
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source
from keras_arcface.data.subsets import ClassSubset
from keras_arcface.data.subsets import Relabeled
from keras_arcface.data.subsets import drop_small_classes
from keras_arcface.data.subsets import relabel_classes
from keras_arcface.data.subsets import split_identities
from keras_arcface.data.teacher_embeddings import TeacherEmbeddings
from keras_arcface.data.teacher_embeddings import load_teacher_embeddings
from keras_arcface.data.teacher_embeddings import write_teacher_embeddings
from keras_arcface.data.tfrecord_source import TFRecords
from keras_arcface.data.writer import write_dataset
from keras_arcface.data.ytf import YtfSet

__all__ = [
    "CameraFolder",
    "Cars196",
    "ClassSubset",
    "Cub200",
    "DatasetInfo",
    "FeatureFiles",
    "IjbIdentificationSet",
    "IjbSet",
    "ImageCheck",
    "ImageFolder",
    "ImageList",
    "InShop",
    "MegaFaceSet",
    "PairImages",
    "PairSet",
    "Record",
    "RecordIO",
    "Relabeled",
    "Resized",
    "RfwSet",
    "Source",
    "StanfordOnlineProducts",
    "TFRecords",
    "TeacherEmbeddings",
    "YtfSet",
    "align",
    "augment",
    "check_dataset",
    "check_images",
    "drop_small_classes",
    "load_dataset",
    "load_info",
    "load_teacher_embeddings",
    "open_source",
    "relabel_classes",
    "split_identities",
    "write_dataset",
    "write_feature_files",
    "write_teacher_embeddings",
]
