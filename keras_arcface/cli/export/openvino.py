"""Exports a saved embedder as an OpenVINO model, an .xml file and a .bin file.

    keras-arcface export openvino runs/1/embedder.keras model.xml --precision bfloat16
    keras-arcface export openvino runs/1/embedder.keras model.xml --precision int8 \\
        --calibration ms1m_tfrecord --pairs lfw.bin

The file has the input `images`, uint8 RGB, and the outputs `embedding` and `norm`. It is kept only if its embeddings
agree with those of the embedder. --pairs compares the verification accuracy of the embedder and of the export.
"""

import argparse

from keras_arcface._choices import OPENVINO_PRECISIONS
from keras_arcface.cli.export.shared import add_conversion_arguments
from keras_arcface.cli.export.shared import convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_conversion_arguments(parser, OPENVINO_PRECISIONS)


def run(arguments: argparse.Namespace) -> None:
    convert(arguments, "export_openvino")
