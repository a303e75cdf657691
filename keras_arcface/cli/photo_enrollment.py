"""Enrollment of people by their photos, for `keras-arcface enroll`."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_arcface._image_files import read_image_file
from keras_arcface._messages import counted
from keras_arcface.cli.galleries import image_names
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.photo_files import list_photos
from keras_arcface.cli.photo_files import photos_by_folder

if TYPE_CHECKING:
    from keras_arcface.faces import FacePipeline
    from keras_arcface.gallery import Gallery

# The name of an image in the gallery is the name of the photo, this mark and some digits of the checksum of the file.
_MARK = "#sha256="
_DIGITS = 16


class _Photo(NamedTuple):
    """Photo of a person, with the name of its image in the gallery."""

    person: str
    path: str
    image: str


def find_people(paths: Sequence[Path], name: str | None) -> tuple[dict[str, list[str]], int]:
    """Returns the photos of each person.

    Args:
        paths: folders of one folder for each person; with a name, photos or folders of photos.
        name: name of the person in all photos, or None.

    Returns:
        The photos by the names of people, who may have none, and the number of files that are not photos.

    Raises:
        FileNotFoundError: if a path does not exist, or there is no photo.
        OSError: if a folder cannot be read.
        ValueError: if a photo is in no folder of a person.
    """
    if name is not None:
        photos, skipped = list_photos(paths)
        return {name: photos}, skipped
    people: dict[str, list[str]] = {}
    skipped = 0
    for path in paths:
        check_exists(path)
        groups, loose, others = photos_by_folder(path) if path.is_dir() else ({}, [str(path)], 0)
        if loose:
            raise ValueError(
                "PHOTOS must be a folder with one folder of photos for each person, or --name must name the person. "
                f"Received: {loose[0]}"
            )
        for person, photos in groups.items():
            people.setdefault(person, []).extend(photos)
        skipped += others
    if not any(people.values()):
        raise FileNotFoundError(
            "PHOTOS must be a folder with one folder of photos for each person. "
            f"Received: {', '.join(map(str, paths))} without a photo"
        )
    return people, skipped


def enroll(pipeline: FacePipeline, gallery: Gallery, people: dict[str, list[str]], replace: bool) -> dict[str, Any]:
    """Enrolls the main face of each photo. Each person is stored as soon as all their photos are embedded.

    Args:
        pipeline: finds and embeds the faces.
        gallery: the gallery.
        people: photos by the names of people.
        replace: if true, the new photos replace the former ones of a person.

    Returns:
        For `--json`: for each person the number of photos that were `added`, that were `known`, and of all `images` in
        the gallery; by the paths of photos, the `problems` of those that were not enrolled, and the number of faces of
        those with several.

    Raises:
        ValueError: if none of the people is in the gallery then, or embeddings are not valid.
    """
    from tqdm import tqdm

    todo: list[_Photo] = []
    counts, problems, several_faces = {}, {}, {}
    for person, paths in people.items():
        photos = _new_photos(person, paths, [] if replace else image_names(gallery, person))
        counts[person] = {"added": 0, "known": len(paths) - len(photos)}
        todo += photos
    results = tqdm(pipeline.stream(photo.path for photo in todo), total=len(todo), unit="photo", desc="faces")
    for person, group in itertools.groupby(zip(todo, results, strict=True), key=lambda pair: pair[0].person):
        embeddings, images = [], []
        for photo, found in group:
            if found.main is None:
                problems[photo.path] = found.problem
                continue
            if len(found.faces) + len(found.rejected) > 1:
                several_faces[photo.path] = len(found.faces) + len(found.rejected)
            embeddings.append(found.main.embedding)
            images.append(photo.image)
        if embeddings:
            store = gallery.update if replace and person in gallery else gallery.enroll
            counts[person]["added"] = store(person, embeddings, images)
    for person in people:
        counts[person]["images"] = len(image_names(gallery, person))
    if not any(count["images"] for count in counts.values()):
        raise ValueError(
            "PHOTOS must show the face of at least one person. Received: "
            f"{counted(len(todo), 'photo')} without a face that can be enrolled. {next(iter(problems.values()))}"
        )
    return {"people": counts, "problems": problems, "several_faces": several_faces}


def _new_photos(person: str, paths: list[str], enrolled: list[str]) -> list[_Photo]:
    """Returns the photos that are not enrolled, without copies of the same file."""
    seen = {name.rpartition(_MARK)[2] for name in enrolled if _MARK in name}
    photos = []
    for path in paths:
        digest = ""
        with contextlib.suppress(OSError, ValueError):  # the pipeline reports the error
            digest = hashlib.sha256(read_image_file(path)).hexdigest()[:_DIGITS]
        if not digest or digest not in seen:
            name = "".join(char if char.isprintable() else "?" for char in os.path.basename(path))
            photos.append(_Photo(person, path, f"{name}{_MARK}{digest}"))
            seen.add(digest)
    return photos
