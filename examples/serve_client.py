"""Asks a server whether two aligned faces show the same person.

    python examples/serve_client.py grpc://localhost:8500 first.jpg second.jpg --far 1e-4

The model's export contains calibrated thresholds; --far selects one of them, and --threshold overrides it. The output
includes the confidence interval of the false accept rate. The address may also be http://localhost:8501.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from keras_arcface.serving import FaceClient
from keras_arcface.serving import ServingError
from keras_arcface.serving.client.errors import ThresholdNotFound


def main():
    arguments = parse_arguments()
    try:
        images = [path.read_bytes() for path in (arguments.first, arguments.second)]
        with FaceClient(arguments.address, arguments.model, arguments.version, arguments.label) as client:
            compare(client, images, arguments)
    except (ServingError, ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


def compare(client, images, arguments):
    faces = client.embed(images)
    for path, valid in zip((arguments.first, arguments.second), faces.valid, strict=True):
        if not valid:
            raise ValueError(
                f"{path} could not be decoded by the server. Expected: a JPEG or PNG, or one of the BMP files "
                'that docs/serving.md lists under "Image formats"'
            )
    cosine = float(np.dot(*faces.embedding))
    threshold, meaning, interval = arguments.threshold, "set by --threshold", ""
    if threshold is None:
        try:
            point = client.operating_point(arguments.far, faces.version)
        except ThresholdNotFound as error:
            raise ValueError(f"{error}. Set --threshold, or another --far") from error
        threshold, interval = point["threshold"], interval_of(point)
        meaning = f"accepts one impostor in {1 / arguments.far:,.0f} (FAR {arguments.far:g})"
    print(f"model {arguments.model}, version {faces.version}")
    print(f"cosine    {cosine:7.4f}")
    print(f"threshold {threshold:7.4f}, {meaning}{interval}")
    print(f"alignment of the training faces: {alignment_of(client.metadata(faces.version))}")
    print("the same person" if cosine >= threshold else "not the same person")


def interval_of(point) -> str:
    """Returns the confidence interval of the false accept rate as text, if the export contains it."""
    if not {"far_interval", "impostors", "impostors_accepted"} <= point.keys():
        return ""
    low, high = point["far_interval"]
    accepted = f"{point['impostors_accepted']:,} of {point['impostors']:,} impostor pairs"
    return f";\n          measured with {accepted}: FAR between {low:.2g} and {high:.2g} with 95% confidence"


def alignment_of(metadata) -> str:
    method = metadata.get("alignment", {}).get("method", "not stated")
    return {"five_points": "five points, by data.align"}.get(method, method)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("address", help="grpc://host:port, grpcs://, http:// or https://")
    parser.add_argument("first", type=Path, help="image file of an aligned face")
    parser.add_argument("second", type=Path, help="image file of a second face")
    parser.add_argument("--model", default="faces", help="name of the served model")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, help="version of the model, instead of the latest")
    which.add_argument("--label", help="version label such as stable, instead of a version")
    parser.add_argument("--far", type=float, default=1e-3, help="false accept rate that selects the threshold")
    parser.add_argument("--threshold", type=float, help="minimum cosine of the same person, instead of --far")
    return parser.parse_args()


if __name__ == "__main__":
    main()
