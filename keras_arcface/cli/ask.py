"""Asks a server whether two aligned faces show the same person.

    keras-arcface ask grpc://localhost:8500 first.jpg second.jpg --far 1e-4
    keras-arcface ask http://localhost:8501 first.jpg second.jpg --threshold 0.3

The model's export contains calibrated thresholds; --far selects one of them, and --threshold overrides it. The output
includes the confidence interval of the false accept rate.
"""

import argparse
from pathlib import Path
from typing import Any

from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.server_options import add_server_options
from keras_arcface.cli.server_options import server_options
from keras_arcface.cli.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="grpc://HOST:PORT, grpcs://, http:// or https://")
    parser.add_argument("first", type=Path, metavar="FIRST", help="image file of an aligned face")
    parser.add_argument("second", type=Path, metavar="SECOND", help="image file of another aligned face")
    add_server_options(parser)
    parser.add_argument(
        "--far",
        type=float,
        default=1e-3,
        metavar="X",
        help="false accept rate that selects the threshold; default 0.001",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="X", help="minimum cosine of the same person, instead of --far"
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.first, arguments.second)
    if arguments.address.startswith("grpc"):
        load_tensorflow()
    from keras_arcface.serving import FaceClient

    images = [path.read_bytes() for path in (arguments.first, arguments.second)]
    with FaceClient(arguments.address, **server_options(arguments)) as client:
        found = compare(client, images, arguments)
    if arguments.json:
        print_json(found)
        return
    print(f"model {found['model']}, version {found['version']}")
    print(f"cosine    {found['cosine']:7.4f}")
    print(f"threshold {found['threshold']:7.4f}, {meaning_of(found)}")
    alignment = {"five_points": "five points, by data.align", None: "not stated"}
    print(f"alignment of the training faces: {alignment.get(found['alignment'], found['alignment'])}")
    print("the same person" if found["same"] else "not the same person")


def compare(client: Any, images: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the cosine of two images, the threshold, and what is known about both."""
    import numpy as np

    from keras_arcface.serving.client.errors import ThresholdNotFound

    faces = client.embed(images)
    for path, valid in zip((arguments.first, arguments.second), faces.valid, strict=True):
        if not valid:
            raise ValueError(
                f"{path} could not be decoded by the server. Expected: a JPEG or PNG, or one of the BMP files "
                'that docs/serving.md lists under "Image formats"'
            )
    point = {"threshold": arguments.threshold}
    if arguments.threshold is None:
        try:
            point = {"requested_far": arguments.far, **client.operating_point(arguments.far, faces.version)}
        except ThresholdNotFound as error:
            raise ValueError(f"{error}. Set --threshold, or another --far") from error
    cosine = float(np.dot(*faces.embedding))
    return {
        "model": arguments.model,
        "version": faces.version,
        "cosine": cosine,
        **point,
        "alignment": client.metadata(faces.version).get("alignment", {}).get("method"),
        "same": cosine >= point["threshold"],
    }


def meaning_of(point: dict[str, Any]) -> str:
    """Returns the origin of a threshold, with the confidence interval of its false accept rate if it is known."""
    if "requested_far" not in point:
        return "set by --threshold"
    far = point["requested_far"]
    meaning = f"accepts one impostor in {1 / far:,.0f} (FAR {far:g})"
    if not {"far_interval", "impostors", "impostors_accepted"} <= point.keys():
        return meaning
    low, high = point["far_interval"]
    accepted = f"{point['impostors_accepted']:,} of {point['impostors']:,} impostor pairs"
    return f"{meaning};\n          measured with {accepted}: FAR between {low:.2g} and {high:.2g} with 95% confidence"
