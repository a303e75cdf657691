"""Exports a saved embedder as an ONNX file.

    keras-arcface export onnx runs/1/embedder.keras model.onnx --precision float16
    keras-arcface export onnx runs/1/embedder.keras model.onnx --precision int8 \\
        --calibration ms1m_tfrecord --pairs lfw.bin

The file has the input `images`, uint8 RGB, and the outputs `embedding` and `norm`. It is kept only if its embeddings
agree with those of the embedder. --pairs compares the verification accuracy of the embedder and of the export.
"""

import argparse

from keras_arcface._choices import ONNX_PRECISIONS
from keras_arcface.cli.export.shared import add_conversion_arguments
from keras_arcface.cli.export.shared import convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_conversion_arguments(parser, ONNX_PRECISIONS)


def run(arguments: argparse.Namespace) -> None:
    convert(arguments, "export_onnx")
