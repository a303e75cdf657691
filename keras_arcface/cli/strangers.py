"""Thresholds of galleries by photos of people who are not enrolled, for `keras-arcface enroll --calibrate`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.photo_files import photos_by_folder

if TYPE_CHECKING:
    from keras_arcface.faces import FacePipeline
    from keras_arcface.gallery import Gallery


def find_strangers(folder: Path, fpir: float) -> list[list[str]]:
    """Returns the photos of each stranger: those in a subfolder, or one photo that is in no subfolder.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if a folder cannot be read.
        ValueError: if there are too few strangers for the rate.
    """
    check_exists(folder)
    groups, loose, _ = photos_by_folder(folder)
    strangers = [photos for photos in groups.values() if photos] + [[photo] for photo in loose]
    _check_number(len(strangers), fpir, f"{folder}, with photos")
    return strangers


def calibrate(pipeline: FacePipeline, gallery: Gallery, strangers: list[list[str]], fpir: float) -> dict[str, Any]:
    """Stores a threshold for the main faces of strangers, each by their first photo that has one.

    Returns:
        For `--json`: the name of the threshold, the fields of `IdentificationThreshold`, the number of strangers
        `without_face`, and the `nearest` one: photo, person in the gallery, and score.

    Raises:
        ValueError: if the gallery is empty, or there are too few faces for the rate.
    """
    from tqdm import tqdm

    photos, embeddings, waiting = [], [], strangers
    while waiting:
        left = []
        results = pipeline.stream(paths[0] for paths in waiting)
        for paths, found in tqdm(
            zip(waiting, results, strict=True), total=len(waiting), unit="photo", desc="strangers"
        ):
            if found.main is not None:
                photos.append(paths[0])
                embeddings.append(found.main.embedding)
            elif paths[1:]:
                left.append(paths[1:])
        waiting = left
    _check_number(len(embeddings), fpir, "photos that show a face")
    name = f"fpir={fpir:g}"
    threshold = gallery.calibrate(embeddings, fpir, name)
    best = [matches[0] for matches in gallery.search(embeddings, top_k=1)]
    nearest = max(range(len(best)), key=lambda number: best[number].score)
    return {
        "name": name,
        **dataclasses.asdict(threshold),
        "without_face": len(strangers) - len(embeddings),
        "nearest": {"photo": photos[nearest], **best[nearest]._asdict()},
    }


def _check_number(number: int, fpir: float, received: str) -> None:
    if not number or 1 / number > fpir:
        raise ValueError(
            f"--calibrate must be a folder with photos of at least {math.ceil(1 / fpir):,} people for --fpir {fpir:g}. "
            f"Received: {received} of {number:,} people"
        )
