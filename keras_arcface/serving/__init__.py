"""From an embedder to something that a server answers with."""

from keras_arcface.serving.export import export_saved_model
from keras_arcface.serving.runtimes import calibration_images
from keras_arcface.serving.to_litert import export_litert
from keras_arcface.serving.to_onnx import export_onnx
from keras_arcface.serving.to_openvino import export_openvino

__all__ = ["calibration_images", "export_litert", "export_onnx", "export_openvino", "export_saved_model"]
