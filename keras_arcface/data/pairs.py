"""Pairs of images, for verification: is it the same person?"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_arcface.data import encoded_images
from keras_arcface.data import verification_pickle
from keras_arcface.data.sources import IMAGE_SUFFIXES


class PairSet:
    """A verification set: pair i is images `2 * i` and `2 * i + 1`.

    Args:
        images: encoded images (JPEG, PNG ...), two per pair, pairs in the order of their folds.
        same: for every pair, whether both images show the same person.

    Attributes:
        images: list of 2n encoded images.
        same: `(n,)` bool array.

    Raises:
        ValueError: if there are not two images per pair.
    """

    def __init__(self, images: Sequence[bytes], same):
        self.images = list(images)
        self.same = np.asarray(same, dtype=bool)
        if self.same.ndim != 1 or len(self.images) != 2 * len(self.same):
            raise ValueError(
                "PairSet expects two images per pair. Received: "
                f"{len(self.images)} images for `same` of shape {self.same.shape}"
            )

    def __len__(self) -> int:
        return len(self.same)

    def __repr__(self) -> str:
        return f"<PairSet: {len(self):,} pairs, {np.sum(self.same):,} of them genuine>"

    def save(self, path) -> None:
        """Writes the pairs as an uncompressed `.npz` without any pickled object."""
        lengths = [len(image) for image in self.images]
        with open(path, "wb") as file:
            np.savez(
                file,
                bytes=np.frombuffer(b"".join(self.images), np.uint8),
                ends=np.cumsum(lengths, dtype=np.int64),
                same=self.same,
            )

    @classmethod
    def load(cls, path) -> "PairSet":
        """Reads a `.bin` verification set, as InsightFace hands them on, or the `.npz` that `save` wrote.

        A `.bin` file is a pickle, which could run any program. Here it cannot: what is more than lists of bytes and
        arrays is refused, by name.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: naming the file, if it is no such file, is damaged or asks to run something.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no pair set at {path}")
        if path.suffix == ".bin":
            images, same = verification_pickle.load(path)
        else:
            images, same = _load_npz(path)
        try:
            pairs = cls(images, same)
            for number, image in enumerate(pairs.images):
                if not encoded_images.has_known_signature(image):
                    raise ValueError(
                        f"image {number} is no JPEG, PNG, GIF or BMP: its {len(image)} bytes start with {image[:4]!r}"
                    )
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        return pairs

    @classmethod
    def from_pairs_txt(cls, path, folder) -> "PairSet":
        """Reads a list of pairs as LFW has them, over a folder with one sub-folder per person.

        After a first line with the number of folds and of pairs of each kind in each (or of the latter alone) come,
        separated by tabs, `person i j` for a genuine and `person i other j` for an impostor pair. Image i of a
        person is `folder/person/person_000i.jpg`, or with another suffix. Images become JPEG or PNG, as in
        `write_dataset`.

        Args:
            path: `pairs.txt`, `pairsDevTest.txt` or the like.
            folder: of the images.

        Returns:
            The pairs, in the order of the list.

        Raises:
            FileNotFoundError: if there is no such list, or naming the line, if an image is missing.
            ValueError: naming the line, if it is none of these.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no list of pairs at {path}")
        head, *lines = path.read_text("utf-8").splitlines() or [""]
        numbers = head.split()
        if len(numbers) not in (1, 2) or not all(map(str.isdecimal, numbers)):
            raise ValueError(f"{path}, line 1: expected the number of pairs, or of folds and pairs. Received: {head!r}")
        images, same = [], []
        for number, line in enumerate(lines, start=2):
            if not line.strip():
                continue
            fields = line.rstrip("\n").split("\t") if "\t" in line else line.split()
            if len(fields) == 3:
                fields = [fields[0], fields[1], fields[0], fields[2]]
                same.append(True)
            else:
                same.append(False)
            if len(fields) != 4 or not (fields[1].isdecimal() and fields[3].isdecimal()):
                raise ValueError(
                    f"{path}, line {number}: expected `person i j` or `person i other j`. Received: {line!r}"
                )
            for person, image in (fields[:2], fields[2:]):
                try:
                    file = _find(Path(folder), person, int(image))
                except FileNotFoundError as error:
                    raise FileNotFoundError(f"{path}, line {number}: {error}") from None
                images.append(encoded_images.to_jpeg_or_png(file.read_bytes(), str(file)))
        expected = 2 * int(numbers[-1]) * (int(numbers[0]) if len(numbers) == 2 else 1)
        if len(same) != expected:
            raise ValueError(f"{path} is cut short. Expected, by line 1: {expected} pairs. Received: {len(same)}")
        return cls(images, same)


def _find(folder: Path, person: str, image: int) -> Path:
    for suffix in IMAGE_SUFFIXES:
        path = folder / person / f"{person}_{image:04d}{suffix}"
        if path.is_file():
            return path
    raise FileNotFoundError(f"there is no image {folder / person / f'{person}_{image:04d}'}.jpg, nor of another suffix")


def _load_npz(path: Path) -> tuple[list[bytes], np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise ValueError("it says it holds more than it has")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            joined, ends, same = stored["bytes"].tobytes(), stored["ends"], stored["same"]
    except Exception as error:  # zipfile, numpy and zlib each raise their own
        raise ValueError(f"{path} is not a pair set saved by PairSet.save: {error}") from error
    starts = np.concatenate([[0], ends[:-1]])
    if len(ends) == 0 or ends[-1] != len(joined) or (ends < starts).any():
        raise ValueError(f"{path} is damaged: its image boundaries do not fit its {len(joined)} bytes")
    return [joined[start:end] for start, end in zip(starts, ends, strict=True)], same
