"""Checks of people, images and embeddings that are enrolled."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._arguments import check_integer
from keras_arcface._messages import short
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.evaluation.vectors import l2_norms

DTYPE = np.dtype("<f4")
MAX_DIMENSION = 65536
_IMAGES_PER_BATCH = 4096
# Length of the mean of the normalized embeddings of a person, below which it has no meaningful direction.
_MIN_MEAN = 1e-3


class Enrollment(NamedTuple):
    """Images of a person.

    Attributes:
        person: name of the person.
        embeddings: `(n, dim)` float32.
        norms: `(n,)` float64, their L2 norms.
        images: `(n,)` names, all different; None for numbers.
    """

    person: str
    embeddings: np.ndarray
    norms: np.ndarray
    images: list[str] | None


def enroll_in_batches(
    people: Iterable[tuple[str, Any, Sequence[str] | None]],
    store: Callable[[list[Enrollment]], None],
    place: object,
    acknowledge: Callable[[int], object] | None,
) -> int:
    """Stores the images of many people in batches of a few thousand images.

    Args:
        people: `(person, embeddings, images)` tuples.
        store: function that stores a batch.
        place: where it stores them, for a note of an error.
        acknowledge: is called with the number of tuples so far, each time a batch is stored.

    Returns:
        The number of images.
    """
    num_images = acknowledged = 0
    try:
        for batch in _in_batches(people):
            store(batch)
            num_images += sum(len(enrollment.embeddings) for enrollment in batch)
            acknowledged += len(batch)
            if acknowledge is not None:
                acknowledge(acknowledged)
    except Exception as error:
        error.add_note(f"The first {acknowledged:,} tuples are enrolled in {place}.")
        raise
    return num_images


def _in_batches(people: Iterable[tuple[str, Any, Sequence[str] | None]]) -> Iterator[list[Enrollment]]:
    """Yields checked enrollments in lists of a few thousand images."""
    batch: list[Enrollment] = []
    num_images = 0
    for item in people:
        batch.append(check_enrollment(*item))
        num_images += len(batch[-1].embeddings)
        if num_images >= _IMAGES_PER_BATCH:
            yield batch
            batch, num_images = [], 0
    if batch:
        yield batch


def check_enrollment(person: Any, embeddings: Any, images: Sequence[str] | None) -> Enrollment:
    person = check_name("person", person)
    embeddings = np.asarray(embeddings)
    norms = l2_norms(embeddings, f"embeddings of {short(person)}")
    if embeddings.dtype != DTYPE:
        with np.errstate(over="ignore"):
            embeddings = embeddings.astype(DTYPE)
        norms = l2_norms(embeddings, f"embeddings of {short(person)}, as float32,")
    check_integer("dimension of the embeddings", embeddings.shape[1], 1, MAX_DIMENSION)
    if images is None:
        return Enrollment(person, embeddings, norms, None)
    names = [check_name("each of images", image) for image in ([images] if isinstance(images, str) else images)]
    if len(names) != len(embeddings):
        raise ValueError(
            f"images must be {len(embeddings)} names, one for each row of embeddings. Received: {len(names)} names"
        )
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"images must be different names. Received: {short(repeated)} several times")
    return Enrollment(person, embeddings, norms, names)


def check_name(argument: str, name: Any) -> str:
    is_valid = isinstance(name, str) and name != "" and "\0" not in name and name.isprintable()
    check(argument, name, is_valid, "a text of at least one printable character")
    return str(name)


def check_sha256(text: str) -> str:
    is_valid = isinstance(text, str) and len(text) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in text)
    check("embedder_sha256", text, is_valid, "64 hexadecimal digits")
    return text.lower()


def free_names(taken: set[str], count: int) -> list[str]:
    """Returns names for images without one: numbers that are not taken.

    >>> free_names({"1", "3"}, 3)
    ['2', '4', '5']
    """
    names: list[str] = []
    number = 1
    while len(names) < count:
        if str(number) not in taken:
            names.append(str(number))
        number += 1
    return names


def check_new_names(person: str, names: list[str], taken: set[str]) -> None:
    """Raises a ValueError if an image has the name of an enrolled one."""
    if not taken.isdisjoint(names):
        repeated = next(name for name in names if name in taken)
        raise ValueError(
            f"images must be new names among the images of {short(person)}; `update` replaces all of them. "
            f"Received: {short(repeated)}, which is enrolled"
        )


def check_mean(person: str, embeddings: np.ndarray) -> None:
    """Raises a ValueError if the embeddings of a person have no common direction."""
    length = float(np.linalg.norm(l2_normalize(embeddings, "embeddings").mean(axis=0)))
    if length < _MIN_MEAN:
        raise ValueError(
            f"embeddings of {short(person)} must have a mean, after their normalization, of a length of at least "
            f"{_MIN_MEAN:g}. Received: length {length:.2g}. They cancel each other, as opposite embeddings do"
        )
