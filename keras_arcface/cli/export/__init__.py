"""Exports a saved embedder for TensorFlow Serving, ONNX Runtime, OpenVINO or LiteRT.

    keras-arcface export saved-model runs/1/embedder.keras exported
    keras-arcface export onnx runs/1/embedder.keras model.onnx

Run `keras-arcface export FORMAT --help` for the options of a format.
"""

import argparse

from keras_arcface.cli.export import litert
from keras_arcface.cli.export import onnx
from keras_arcface.cli.export import openvino
from keras_arcface.cli.export import saved_model
from keras_arcface.cli.parser import Parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    assert isinstance(parser, Parser)
    formats = parser.add_subparsers(title="formats", metavar="FORMAT", required=True)
    for name, module in {"saved-model": saved_model, "onnx": onnx, "openvino": openvino, "litert": litert}.items():
        module.add_arguments(formats.add_command(name, module))
