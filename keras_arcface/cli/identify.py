"""Finds the people of a gallery in photos.

    keras-arcface identify people.db group.jpg
    keras-arcface identify people.db photos --threshold fpir=0.01 --top-k 1 --json

For each face in PHOTOS, which are files or folders with any subfolders, the command prints the most similar people of
the gallery with their scores, the cosines of the embeddings. `keras-arcface enroll` creates the gallery.

People whose score is below the threshold are not printed. --threshold is a cosine, or the name of a threshold that
`enroll --calibrate` has stored; without it, the stored threshold is used if there is exactly one. Without any
threshold, the most similar people are printed for strangers too. `--threshold -1` prints all scores.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_arcface._arguments import check_number
from keras_arcface._messages import counted
from keras_arcface.cli.galleries import check_gallery
from keras_arcface.cli.galleries import open_gallery
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.photo_files import list_photos
from keras_arcface.cli.pipelines import add_pipeline_options
from keras_arcface.cli.pipelines import box_of
from keras_arcface.cli.pipelines import check_pipeline
from keras_arcface.cli.pipelines import make_pipeline
from keras_arcface.cli.startup import load_tensorflow

if TYPE_CHECKING:
    from keras_arcface.faces.pipeline import PhotoFaces
    from keras_arcface.gallery import Gallery
    from keras_arcface.gallery import Match


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="file that `keras-arcface enroll` wrote")
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTOS", help="photo, or folder of photos")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="X",
        help="lowest score of a match, or name of a stored threshold, such as fpir=0.01; default: the stored one",
    )
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="largest number of people; default 3")
    add_pipeline_options(parser)
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_gallery(arguments.gallery, must_exist=True)
    check_pipeline(arguments)
    photos, skipped = list_photos(arguments.photos)
    load_tensorflow()
    from tqdm import tqdm

    say = text_printer(arguments)
    pipeline = make_pipeline(arguments)
    results = []
    with open_gallery(arguments.gallery, arguments.embedder, pipeline.embedder_sha256) as gallery:
        if not len(gallery):
            raise ValueError(f"GALLERY must have at least one person. Received: {arguments.gallery} without anybody")
        name, threshold = choose_threshold(arguments.threshold, gallery)
        for photo in tqdm(pipeline.stream(photos), total=len(photos), unit="photo", desc="faces"):
            embeddings = [face.embedding for face in photo.faces]
            matches = gallery.search(embeddings, arguments.top_k, name or threshold) if embeddings else []
            results.append(describe(photo, matches))
        stored = list(gallery.thresholds())
    if all(result["error"] is not None for result in results):
        raise ValueError(f"PHOTOS must be readable photos. Received: {results[0]['error']}")
    if threshold is None:
        reason = f"the gallery has several: {', '.join(stored)}" if stored else "the gallery has none"
        say(f"No threshold, because {reason}. The most similar people are printed for strangers too.")
    else:
        say(f"Threshold {threshold:.4f}{f' ({name})' if name else ''}")
    for result in results:
        if result["error"] is not None:
            print(f"WARNING: {result['error']}", file=sys.stderr)
        for line in lines_of(result):
            say(line)
    if skipped:
        say(counted(skipped, "file has another type", "files have other types"))
    if arguments.json:
        print_json({"threshold": threshold, "threshold_name": name, "photos": results, "skipped": skipped})


def choose_threshold(chosen: float | str | None, gallery: Gallery) -> tuple[str | None, float | None]:
    """Returns the name of a stored threshold, if it has one, and the value of the threshold, if there is one.

    Raises:
        ValueError: if the threshold is not stored, or is not a cosine.
    """
    stored = gallery.thresholds()
    if chosen is None and len(stored) == 1:
        (chosen,) = stored
    if chosen is None:
        return None, None
    if not isinstance(chosen, str):
        check_number("--threshold", chosen, lambda value: -1 <= value <= 1, "a cosine in [-1, 1]")
        return None, chosen
    if chosen not in stored:
        names = ", ".join(stored) or "it has none; `keras-arcface enroll GALLERY --calibrate STRANGERS` stores one"
        raise ValueError(
            f"--threshold must be a cosine or a stored threshold of {gallery.path} ({names}). "
            f"Received: --threshold {chosen}"
        )
    return chosen, stored[chosen].threshold


def describe(photo: PhotoFaces, matches: list[list[Match]]) -> dict[str, Any]:
    """Returns the faces of a photo with their matches, for `--json`."""
    return {
        "photo": photo.photo,
        "error": photo.error,
        "faces": [
            {"box": box_of(face), "matches": [match._asdict() for match in people]}
            for face, people in zip(photo.faces, matches, strict=True)
        ],
        "rejected": [{"box": box_of(face), "reason": face.reason} for face in photo.rejected],
    }


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """Yields a line of text for each face of a photo, and for a photo without faces."""
    from keras_arcface.gallery.album import face_names

    photo, found = result["photo"], result["faces"]
    for name, face in zip(face_names([photo] * len(found)), found, strict=True):
        x, y, _, _ = face["box"]
        place = f" at ({x:.0f}, {y:.0f})" if len(found) > 1 else ""
        people = ", ".join(f"{match['person']} {match['score']:.4f}" for match in face["matches"])
        yield f"{name}{place}: {people or 'unknown'}"
    for face in result["rejected"]:
        x, y, _, _ = face["box"]
        yield f"{photo}: the face at ({x:.0f}, {y:.0f}) is rejected: {face['reason']}"
    if result["error"] is None and not found and not result["rejected"]:
        yield f"{photo}: no face was found"


def _threshold(text: str) -> float | str:
    with contextlib.suppress(ValueError):
        return float(text)
    return text
