"""Galleries as arguments of commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface.cli.paths import check_exists

if TYPE_CHECKING:
    from keras_arcface.gallery import Gallery


def check_gallery(path: Path, must_exist: bool) -> None:
    """Checks the path of a gallery without opening it, because opening creates a missing file.

    Raises:
        FileNotFoundError: if the gallery must exist, and does not.
        ValueError: if the path is a folder.
    """
    if must_exist:
        check_exists(path)
    if path.is_dir():
        raise ValueError(f"GALLERY must be a file, and comes before PHOTOS. Received: the folder {path}")


def open_gallery(path: Path, embedder: Path, embedder_sha256: str, argument: str = "--embedder") -> Gallery:
    """Opens a gallery, or creates it.

    Args:
        path: path that `check_gallery` accepts.
        embedder: argument of the option `--embedder`, or directory of stored embeddings, for the error.
        embedder_sha256: checksum of the embedder.
        argument: what `embedder` is, for the error.

    Raises:
        EmbedderMismatchError: if the gallery has embeddings of another embedder.
    """
    from keras_arcface.gallery import EmbedderMismatchError
    from keras_arcface.gallery import Gallery

    try:
        return Gallery.open(path, embedder_sha256)
    except EmbedderMismatchError as error:
        error.add_note(f"{argument} must be the one with which the gallery was created. Received: {embedder}")
        raise


def image_names(gallery: Gallery, person: str) -> list[str]:
    """Returns the names of the images of a person, who may not be enrolled."""
    return [image.name for image in gallery.images(person)] if person in gallery else []
