"""Compares the faces of two photos.

    keras-arcface compare first.jpg second.jpg
    keras-arcface compare first.jpg second.jpg --embedder embedder.keras --threshold 0.42

The score is the cosine of the embeddings of both faces. From the threshold on, they count as the same person. The
default is the published threshold of the embedder, 0.363 for SFace; your own photos may require another one.

If a photo shows several people, its main face is compared: the largest one near the center. `keras-arcface ask`
compares aligned faces by a server.
"""

import argparse
from pathlib import Path

from keras_arcface._arguments import check_number
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.pipelines import add_pipeline_options
from keras_arcface.cli.pipelines import box_of
from keras_arcface.cli.pipelines import check_pipeline
from keras_arcface.cli.pipelines import make_pipeline
from keras_arcface.cli.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="FIRST", help="photo")
    parser.add_argument("second", type=Path, metavar="SECOND", help="another photo")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="lowest cosine of the same person; default: the published one of the embedder",
    )
    add_pipeline_options(parser)
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.first, arguments.second)
    check_pipeline(arguments)
    threshold = find_threshold(arguments)
    load_tensorflow()
    found = make_pipeline(arguments, threshold).compare(arguments.first, arguments.second)
    if arguments.json:
        faces = {
            "first": {"photo": str(arguments.first), "box": box_of(found.first)},
            "second": {"photo": str(arguments.second), "box": box_of(found.second)},
        }
        print_json({"score": found.score, "threshold": found.threshold, "same": found.same, **faces})
        return
    print(f"score     {found.score:7.4f}")
    print(f"threshold {found.threshold:7.4f}")
    print("the same person" if found.same else "not the same person")


def find_threshold(arguments: argparse.Namespace) -> float:
    """Returns the threshold of the option or of the embedder.

    Raises:
        ValueError: if there is none, or it is not a cosine.
    """
    from keras_arcface.faces.pipeline import published_threshold

    threshold = arguments.threshold
    if threshold is None:
        threshold = published_threshold(arguments.embedder)
    if threshold is None:
        raise ValueError(
            f"--threshold is required, because no threshold of {arguments.embedder} is known. "
            "`keras-arcface evaluate EMBEDDER --pairs FILE` measures thresholds"
        )
    check_number("--threshold", threshold, lambda value: -1 <= value <= 1, "a cosine in [-1, 1]")
    return threshold
