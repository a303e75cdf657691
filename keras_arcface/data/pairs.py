"""Pairs of images, for verification: is it the same person?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


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
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: naming the file, if it is no such file or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no pair set at {path}")
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                joined, ends, same = stored["bytes"].tobytes(), stored["ends"], stored["same"]
        except Exception as error:  # zipfile, numpy and zlib each raise their own
            raise ValueError(f"{path} is not a pair set saved by PairSet.save: {error}") from error
        starts = np.concatenate([[0], ends[:-1]])
        if len(ends) == 0 or ends[-1] != len(joined) or (ends < starts).any():
            raise ValueError(f"{path} is damaged: its image boundaries do not fit its {len(joined)} bytes")
        return cls([joined[start:end] for start, end in zip(starts, ends, strict=True)], same)
