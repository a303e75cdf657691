"""From photos to aligned faces and their embeddings."""

from keras_arcface.faces.aligned_folder import AlignedFolder
from keras_arcface.faces.aligned_folder import align_folder
from keras_arcface.faces.detection import detect
from keras_arcface.faces.face import Detector
from keras_arcface.faces.face import Face
from keras_arcface.faces.mtcnn import MTCNN
from keras_arcface.faces.photos import read_photo
from keras_arcface.faces.pipeline import Comparison
from keras_arcface.faces.pipeline import FacePipeline
from keras_arcface.faces.pipeline import PhotoFace
from keras_arcface.faces.pipeline import PhotoFaces
from keras_arcface.faces.quality import Quality
from keras_arcface.faces.quality import QualityLimits
from keras_arcface.faces.quality import face_quality
from keras_arcface.faces.scrfd import SCRFD
from keras_arcface.faces.yunet import YuNet

__all__ = [
    "MTCNN",
    "SCRFD",
    "AlignedFolder",
    "Comparison",
    "Detector",
    "Face",
    "FacePipeline",
    "PhotoFace",
    "PhotoFaces",
    "Quality",
    "QualityLimits",
    "YuNet",
    "align_folder",
    "detect",
    "face_quality",
    "read_photo",
]
