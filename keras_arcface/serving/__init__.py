"""Export of embedders to TensorFlow Serving and other runtimes, and a client for served embedders.

The subpackages are `saved_model` (export), `convert` (ONNX, OpenVINO and LiteRT), `deploy` (versions and servers),
`client`, and `conformance` (checks of a running server).
"""

from typing import TYPE_CHECKING

from keras_arcface._late_names import late_names
from keras_arcface.serving.client.embeddings import Embeddings
from keras_arcface.serving.client.errors import ServingError
from keras_arcface.serving.client.face_client import FaceClient
from keras_arcface.serving.conformance.report import CheckResult
from keras_arcface.serving.conformance.report import ConformanceReport
from keras_arcface.serving.deploy.batching_parameters import Batching
from keras_arcface.serving.deploy.configuration import Configuration
from keras_arcface.serving.deploy.configuration import Tls
from keras_arcface.serving.deploy.configuration import write_configuration
from keras_arcface.serving.deploy.publication import publish
from keras_arcface.serving.deploy.rollback import rollback
from keras_arcface.serving.deploy.served_models import ServedModel
from keras_arcface.serving.deploy.versions import next_version
from keras_arcface.serving.deploy.versions import versions

if TYPE_CHECKING:
    from keras_arcface.serving.conformance.check_server import check_server
    from keras_arcface.serving.convert.calibration import calibration_images
    from keras_arcface.serving.convert.to_litert import export_litert
    from keras_arcface.serving.convert.to_onnx import export_onnx
    from keras_arcface.serving.convert.to_openvino import export_openvino
    from keras_arcface.serving.loading import Preprocessing
    from keras_arcface.serving.loading import load_embedder
    from keras_arcface.serving.saved_model.export import check_exportable
    from keras_arcface.serving.saved_model.export import export_saved_model
    from keras_arcface.serving.saved_model.export_check import check_saved_model

__all__ = [
    "Batching",
    "CheckResult",
    "Configuration",
    "ConformanceReport",
    "Embeddings",
    "FaceClient",
    "Preprocessing",
    "ServedModel",
    "ServingError",
    "Tls",
    "calibration_images",
    "check_exportable",
    "check_saved_model",
    "check_server",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "load_embedder",
    "next_version",
    "publish",
    "rollback",
    "versions",
    "write_configuration",
]

# The client, publishing and configuring a server start faster without TensorFlow.
__getattr__ = late_names(
    __name__,
    {
        "calibration_images": "convert.calibration",
        "check_exportable": "saved_model.export",
        "check_saved_model": "saved_model.export_check",
        "check_server": "conformance.check_server",
        "export_litert": "convert.to_litert",
        "export_onnx": "convert.to_onnx",
        "export_openvino": "convert.to_openvino",
        "export_saved_model": "saved_model.export",
        "load_embedder": "loading",
        "Preprocessing": "loading",
    },
)


def __dir__():
    return sorted(__all__)
