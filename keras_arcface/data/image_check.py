"""Check that all images of a source or of a pair set can be decoded."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterator

from tqdm import tqdm

from keras_arcface.data import encoded_images
from keras_arcface.data.pairs import PairSet
from keras_arcface.data.sources import Source

_IMAGES_PER_BLOCK = 256  # images in memory
_MAX_ERRORS = 1000


@dataclasses.dataclass(frozen=True)
class ImageCheck:
    """Result of `check_images`.

    Attributes:
        num_images: number of images.
        image_sizes: number of images of each `(height, width)`, the most frequent size first.
        errors: one message per image that cannot be read or decoded or has a wrong label. After 1000 messages, the
            last one says how many more there are.

    Examples:
        >>> check_images(PairSet.load("pairs.npz")).image_sizes
        {(32, 32): 8}
    """

    num_images: int
    image_sizes: dict[tuple[int, int], int]
    errors: tuple[str, ...]


def check_images(images: Source | PairSet) -> ImageCheck:
    """Reads and decodes every image, as `write_dataset` does, and checks the labels of a source.

    Args:
        images: `Source` or `PairSet`.

    Returns:
        An `ImageCheck` with the sizes of the images, and messages about images that cannot be read or decoded.

    Raises:
        ValueError: if there are no images.

    Examples:
        >>> found = check_images(ImageFolder("photos"))
        >>> found.num_images, found.image_sizes, found.errors
        (8, {(32, 32): 8}, ())
    """
    total = len(images.images) if isinstance(images, PairSet) else len(images)
    if total == 0:
        raise ValueError(f"images must contain at least one image. Received: {images!r}, which is empty")
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    errors: list[str] = []
    num_errors = 0
    read = _read_pairs(images) if isinstance(images, PairSet) else _read_source(images)
    with (
        tqdm(total=total, desc="checking", unit="image", dynamic_ncols=True) as progress,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,  # decoding releases the GIL
    ):
        while block := list(itertools.islice(read, _IMAGES_PER_BLOCK)):
            for result in pool.map(_decoded_size, block):
                if not isinstance(result, str):
                    sizes[result] += 1
                    continue
                num_errors += 1
                if num_errors <= _MAX_ERRORS:
                    errors.append(result)
            progress.update(len(block))
    if num_errors > _MAX_ERRORS:
        errors.append(f"{num_errors - _MAX_ERRORS:,} more images with errors")
    return ImageCheck(total, dict(sizes.most_common()), tuple(errors))


def _read_pairs(pairs: PairSet) -> Iterator[tuple[bytes, str] | str]:
    for number, image in enumerate(pairs.images):
        yield image, f"image {number} (of pair {number // 2})"


def _read_source(source: Source) -> Iterator[tuple[bytes, str] | str]:
    """Yields the image and name of every record, or an error message instead."""
    num_classes = source.num_classes
    for index in range(len(source)):
        try:
            image, label, name = source[index]
        except (ValueError, OSError) as error:
            yield str(error)
            continue
        if 0 <= label < num_classes:
            yield image, name
        else:
            yield f"{name} must have a label in [0, {num_classes}). Received: label={label}"


def _decoded_size(read: tuple[bytes, str] | str) -> tuple[int, int] | str:
    if isinstance(read, str):
        return read
    image, name = read
    try:
        return encoded_images.decoded_size(encoded_images.to_jpeg_or_png(image, name), name)
    except ValueError as error:
        return str(error)
