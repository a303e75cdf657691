"""From an embedder to something that a server answers with, and to its client."""

from keras_arcface.serving.batches import Embeddings
from keras_arcface.serving.batching import Batching
from keras_arcface.serving.checking import check_saved_model
from keras_arcface.serving.client import FaceClient
from keras_arcface.serving.configuration import Configuration
from keras_arcface.serving.configuration import Tls
from keras_arcface.serving.configuration import write_configuration
from keras_arcface.serving.errors import ServingError
from keras_arcface.serving.export import check_exportable
from keras_arcface.serving.export import export_saved_model
from keras_arcface.serving.publication import next_version
from keras_arcface.serving.publication import publish
from keras_arcface.serving.publication import rollback
from keras_arcface.serving.publication import versions
from keras_arcface.serving.runtimes import calibration_images
from keras_arcface.serving.served_models import ServedModel
from keras_arcface.serving.to_litert import export_litert
from keras_arcface.serving.to_onnx import export_onnx
from keras_arcface.serving.to_openvino import export_openvino

__all__ = [
    "Batching",
    "Configuration",
    "Embeddings",
    "FaceClient",
    "ServedModel",
    "ServingError",
    "Tls",
    "calibration_images",
    "check_exportable",
    "check_saved_model",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "next_version",
    "publish",
    "rollback",
    "versions",
    "write_configuration",
]
