"""Options of commands that find faces in photos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface.cli.paths import check_exists

if TYPE_CHECKING:
    from keras_arcface.faces import Detector
    from keras_arcface.faces import QualityLimits


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detector",
        default="yunet",
        metavar="NAME",
        help="yunet (default), its ONNX file as yunet=PATH, mtcnn, or scrfd=PATH, an ONNX file of InsightFace",
    )
    parser.add_argument("--min-score", type=float, metavar="X", help="lowest confidence of yunet and scrfd, in 0..1")
    parser.add_argument(
        "--max-side",
        type=int,
        default=1280,
        metavar="PIXELS",
        help="larger photos are reduced to this side before the search; default 1280",
    )
    parser.add_argument(
        "--tiles", action="store_true", help="also search large photos in their full size, for tiny faces; slower"
    )
    limits = parser.add_argument_group("limits", "faces outside of these limits are rejected; default: none")
    limits.add_argument("--min-size", type=float, metavar="PIXELS", help="lowest distance between the eyes")
    limits.add_argument("--max-yaw", type=float, metavar="DEGREES", help="largest turn to the side")
    limits.add_argument("--max-pitch", type=float, metavar="DEGREES", help="largest turn up or down")
    limits.add_argument("--min-sharpness", type=float, metavar="X", help="lowest variance of the Laplacian")


def check_detector(arguments: argparse.Namespace) -> None:
    """Checks the options without loading a detector.

    Raises:
        FileNotFoundError: if the file of the detector does not exist.
        ValueError: if the detector is unknown, or has no minimum score.
    """
    name, separator, path = arguments.detector.partition("=")
    needs_path = {"yunet": False, "mtcnn": False, "scrfd": True}
    if name not in needs_path or (needs_path[name] and not path) or (name == "mtcnn" and separator):
        raise ValueError(
            f"--detector must be yunet, yunet=PATH, mtcnn or scrfd=PATH. Received: --detector {arguments.detector}"
        )
    if path:
        check_exists(Path(path))
    if name == "mtcnn" and arguments.min_score is not None:
        raise ValueError("--min-score requires yunet or scrfd. Received: --detector mtcnn")


def make_detector(arguments: argparse.Namespace) -> Detector:
    """Returns the detector of the options, which `check_detector` accepts."""
    from keras_arcface import faces

    name, _, path = arguments.detector.partition("=")
    options = {} if arguments.min_score is None else {"min_score": arguments.min_score}
    if name == "yunet":
        return faces.YuNet(path or None, **options)
    return faces.MTCNN() if name == "mtcnn" else faces.SCRFD(path, **options)


def make_limits(arguments: argparse.Namespace) -> QualityLimits:
    """Returns the limits of the options."""
    from keras_arcface.faces import QualityLimits

    return QualityLimits(
        min_size=arguments.min_size,
        max_yaw=arguments.max_yaw,
        max_pitch=arguments.max_pitch,
        min_sharpness=arguments.min_sharpness,
    )
