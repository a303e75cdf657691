"""Options of commands that embed the faces of photos, and their pipeline."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keras_arcface.cli.detectors import add_detector_options
from keras_arcface.cli.detectors import check_detector
from keras_arcface.cli.detectors import make_detector
from keras_arcface.cli.detectors import make_limits
from keras_arcface.cli.embedders import add_embedder_option
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.embedders import load_embedder

if TYPE_CHECKING:
    from keras_arcface.faces import Face
    from keras_arcface.faces import FacePipeline


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the embedder and of the detector."""
    add_embedder_option(parser)
    add_detector_options(parser)


def check_pipeline(arguments: argparse.Namespace) -> None:
    """Checks the options without loading the embedder or the detector.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if an option is not valid, or the license of the embedder must be accepted.
    """
    check_embedder(arguments.embedder, arguments.accept_license)
    check_detector(arguments)


def make_pipeline(arguments: argparse.Namespace, threshold: float | None = None) -> FacePipeline:
    """Returns the pipeline of the options, which `check_pipeline` accepts."""
    from keras_arcface.faces import FacePipeline

    return FacePipeline(
        make_detector(arguments),
        load_embedder(arguments.embedder, arguments.accept_license),
        make_limits(arguments),
        threshold,
        max_side=arguments.max_side,
        tiles=arguments.tiles,
    )


def box_of(face: Face) -> list[float]:
    """Returns the left, top, width and height of a face in pixels, for `--json`."""
    return [round(float(value), 1) for value in face.box]
