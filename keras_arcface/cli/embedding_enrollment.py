"""Enrollment of people by stored embeddings, for `keras-arcface enroll`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_arcface.cli.galleries import image_names

if TYPE_CHECKING:
    from keras_arcface.evaluation import StoredEmbeddings
    from keras_arcface.gallery import Gallery


def check_flip(stored: StoredEmbeddings) -> None:
    """Raises a ValueError for embeddings with mirror images, because `identify` would search with others."""
    if stored.flip:
        raise ValueError(
            "Stored embeddings must be without those of mirror images, which `identify` does not add: write them with "
            f"`keras-arcface embed --no-flip`. Received: {stored.directory}, with mirror images"
        )


def enroll_embeddings(stored: StoredEmbeddings, gallery: Gallery, name: str | None) -> dict[str, Any]:
    """Enrolls all stored embeddings, in batches of a few thousand. Images that are enrolled already are left out.

    Args:
        stored: the embeddings, with a class for each person.
        gallery: the gallery.
        name: name of the person of all images. None for the names of the classes, or the labels if they have no names.

    Returns:
        For `--json`: the number of images that were `added` and that were `known`, and of all `people` in the gallery.

    Raises:
        ValueError: if a name or an embedding is not valid, or a label has no name. The batches before it are enrolled.
    """
    from tqdm import tqdm

    added = 0
    with tqdm(total=len(stored), unit="image", desc="enrolling") as bar:
        for embeddings, labels, images in stored.batches():
            rows: dict[str, dict[str, int]] = {}  # of the images, by their people
            for row, (label, image) in enumerate(zip(labels.tolist(), images, strict=True)):
                rows.setdefault(name or _person(stored, label), {})[image] = row
            people = []
            for person, of_person in rows.items():
                enrolled = set(image_names(gallery, person))
                new = [image for image in of_person if image not in enrolled]
                if new:
                    people.append((person, embeddings[[of_person[image] for image in new]], new))
            added += gallery.enroll_many(people)
            bar.update(len(images))
    return {"added": added, "known": len(stored) - added, "people": len(gallery)}


def _person(stored: StoredEmbeddings, label: int) -> str:
    if stored.class_names is None:
        return str(label)
    if not 0 <= label < len(stored.class_names):
        raise ValueError(
            f"The labels of {stored.directory} must be those of its {len(stored.class_names):,} class names. "
            f"Received: {label}"
        )
    return stored.class_names[label]
