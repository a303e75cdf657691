"""Pairs of images for verification."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_arcface._files import is_file_name
from keras_arcface._files import replacing
from keras_arcface._image_files import ImageFiles
from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface._npz import open_npz
from keras_arcface._npz import read_array
from keras_arcface.data import encoded_images
from keras_arcface.data import verification_pickle
from keras_arcface.data.list_files import IMAGE_SUFFIXES


class PairSet:
    """Pairs of images with labels for verification. Pair i has the images `2 * i` and `2 * i + 1`.

    `PairSet.load` reads the sets that InsightFace distributes (LFW, CFP-FP, AgeDB-30 ...), and
    `keras_arcface.evaluation.embed_pairs` and `keras_arcface.training.VerificationCallback` evaluate a model with one.

    Args:
        images: encoded images (JPEG, PNG ...), two per pair, with the pairs in the order of their folds.
        same: mask of the genuine pairs, in which both images show the same person, `(n,)` booleans.

    Attributes:
        images: list of 2n encoded images.
        same: mask of the genuine pairs, `(n,)` bool array.

    Raises:
        ValueError: if the number of images is not twice the number of pairs.

    Examples:
        >>> pairs = PairSet.load("pairs.npz")
        >>> pairs
        <PairSet: 4 pairs, 2 of them genuine>
        >>> len(pairs.images), pairs.same.tolist()
        (8, [True, False, True, False])

        Pairs of your own images:

        >>> from pathlib import Path
        >>> files = ["ann/0.jpg", "ann/1.jpg", "ann/2.jpg", "bob/0.jpg"]
        >>> PairSet([Path("photos", file).read_bytes() for file in files], same=[True, False])
        <PairSet: 2 pairs, 1 of them genuine>
    """

    def __init__(self, images: Sequence[bytes], same):
        self.images = list(images)
        self.same = np.asarray(same, dtype=bool)
        if self.same.ndim != 1 or len(self.images) != 2 * len(self.same):
            raise ValueError(
                "images must contain two images per pair. "
                f"Received: {len(self.images)} images for `same` of shape {self.same.shape}"
            )

    def __len__(self) -> int:
        return len(self.same)

    def __repr__(self) -> str:
        return f"<PairSet: {len(self):,} pairs, {np.sum(self.same):,} of them genuine>"

    def save(self, path) -> None:
        """Writes the pairs as an uncompressed `.npz` file without pickled objects.

        Args:
            path: path of the file, which is replaced atomically if it exists.

        Raises:
            OSError: if the file cannot be written.

        Examples:
            >>> PairSet.load("pairs.npz").save("copy.npz")
            >>> PairSet.load("copy.npz")
            <PairSet: 4 pairs, 2 of them genuine>
        """
        lengths = [len(image) for image in self.images]
        with replacing(path, size=sum(lengths)) as file:
            np.savez(
                file,
                bytes=np.frombuffer(b"".join(self.images), np.uint8),
                ends=np.cumsum(lengths, dtype=np.int64),
                same=self.same,
            )

    @classmethod
    def load(cls, path) -> "PairSet":
        """Reads a `.bin` verification set of InsightFace, or an `.npz` file that `save` wrote.

        A `.bin` file is a pickle, which can contain any program. No code in it is executed. A file with other content
        than lists of bytes and arrays raises an error.

        Args:
            path: path of the file.

        Returns:
            The `PairSet`.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if the file has another format, is damaged, or requests to execute code. The message names the
                file.

        Examples:
            >>> pairs = PairSet.load("pairs.npz")
            >>> len(pairs)
            4
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"path must be a .bin or .npz file of pairs. Received: path={str(path)!r}")
        if path.suffix == ".bin":
            images, same = verification_pickle.load(path)
        else:
            images, same = _load_npz(path)
        try:
            pairs = cls(images, same)
            for number, image in enumerate(pairs.images):
                if not encoded_images.has_known_signature(image):
                    raise ValueError(
                        f"image {number} must be a JPEG, PNG or BMP. "
                        f"Received: {len(image)} bytes that start with {image[:4]!r}"
                    )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return pairs

    @classmethod
    def from_pairs_txt(cls, path, folder, follow_links: bool = False) -> "PairSet":
        """Reads a list of pairs in the format of LFW, and their images from a folder with one sub-folder per person.

        The first line has the number of folds and the number of genuine pairs per fold, which equals that of impostor
        pairs. With a single fold, the number of folds may be missing. Every other line is separated by tabs and has
        `person i j` for a genuine pair or `person i other j` for an impostor pair.
        Image i of a person is `folder/person/person_000i.jpg`, or has another suffix. Images are converted to JPEG or
        PNG as by `write_dataset`.

        Args:
            path: path of the list, such as `pairs.txt` or `pairsDevTest.txt`.
            folder: path of the folder of the images.
            follow_links: whether to follow links to files and folders outside of `folder`. Links within it are always
                followed.

        Returns:
            The `PairSet`, with the pairs in the order of the list.

        Raises:
            FileNotFoundError: if the list or an image does not exist. For an image, the message names the line.
            ValueError: if a line is invalid, or an image cannot be read or decoded. The message names the line or the
                image.

        Examples:
            >>> from pathlib import Path
            >>> print(Path("pairs.txt").read_text())
            2
            ann  1  2
            bob  3  4
            ann  1  bob  1
            ann  2  bob  3
            >>> pairs = PairSet.from_pairs_txt("pairs.txt", "lfw")
            >>> pairs.same.tolist()
            [True, True, False, False]
        """
        path, files = Path(path), ImageFiles(folder, follow_links)
        if not path.is_file():
            raise FileNotFoundError(f"path must be a text file that lists pairs. Received: path={str(path)!r}")
        try:
            head, *lines = path.read_text("utf-8").splitlines() or [""]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} must be encoded as UTF-8. Received: {error}") from error
        numbers = head.split()
        if len(numbers) not in (1, 2) or not all(map(_is_number, numbers)):
            raise ValueError(
                f"{path}, line 1: expected the number of pairs, or of folds and pairs. Received: {short(head)}"
            )
        images, same = [], []
        for number, line in enumerate(lines, start=2):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            first, second, is_same = parse_pair(line, where)
            same.append(is_same)
            for person, image in (first, second):
                file = find_image(files.root, person, image, where)
                content = files.read(str(file.relative_to(files.root)))
                images.append(encoded_images.to_jpeg_or_png(content, str(file)))
        expected = 2 * int(numbers[-1]) * (int(numbers[0]) if len(numbers) == 2 else 1)
        if len(same) != expected:
            raise ValueError(f"{path} must have {expected} pairs according to line 1. Received: {len(same)} pairs")
        return cls(images, same)


def parse_pair(line: str, where: str) -> tuple[tuple[str, int], tuple[str, int], bool]:
    """Returns `(person, image number)` of both images, and whether the pair is genuine."""
    fields = line.split("\t") if "\t" in line else line.split()
    is_same = len(fields) == 3
    if is_same:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    is_pair = len(fields) == 4 and all(map(_is_number, fields[1::2])) and all(map(is_file_name, fields[::2]))
    if not is_pair:
        raise ValueError(f"{where}: expected `person i j` or `person i other j`. Received: {short(line)}")
    return (fields[0], int(fields[1])), (fields[2], int(fields[3])), is_same


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def find_image(folder: Path, person: str, number: int, where: str) -> Path:
    """Returns the path of an image in the layout of LFW. `where` names the line in errors."""
    for suffix in IMAGE_SUFFIXES:
        path = folder / person / f"{person}_{number:04d}{suffix}"
        if os.path.isfile(path):  # Path.is_file raises an error for a name that is too long
            return path
    expected = cut(str(folder / person / f"{person}_{number:04d}.jpg"), 1000)
    raise FileNotFoundError(f"{where}: expected image {expected}, or with another suffix. Received: no such file")


def _load_npz(path: Path) -> tuple[list[bytes], np.ndarray]:
    try:
        with open_npz(path) as archive:
            joined, ends, same = (
                read_array(archive, name, np.dtype(dtype))
                for name, dtype in (("bytes", np.uint8), ("ends", np.int64), ("same", np.bool_))
            )
    except Exception as error:  # zipfile, NumPy and zlib raise different exceptions
        raise ValueError(f"{path} must be a file that PairSet.save wrote. Received: {cut(str(error))}") from error
    starts = np.concatenate([[0], ends[:-1]])
    if len(ends) == 0 or ends[-1] != len(joined) or (ends < starts).any():
        raise ValueError(
            f"{path} must contain ascending ends of images, the last equal to the {len(joined)} bytes of all images. "
            f"Received: {len(ends)} ends, the last {ends[-2:].tolist()}"
        )
    content = joined.tobytes()
    return [content[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)], same
