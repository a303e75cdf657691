"""Market-1501 and DukeMTMC-reID: folders whose file names say who is seen, and by which camera."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.sources import visible

_NAME = re.compile(r"(-?\d+)_c(\d+)")


class CameraFolder(Sequence):
    """A folder of images named `<identity>_c<camera>...`, such as `0002_c1s1_000451_03.jpg` or `0001_c2_f0046182.jpg`.

    A sequence of encoded images, in the order of their names, as `keras_arcface.evaluation.embed_images` takes it.
    Identity -1 is what Market-1501 calls junk: `keras_arcface.evaluation.reidentify` passes it over.

    Args:
        path: the folder: `query` or `bounding_box_test`.

    Attributes:
        path: the folder.
        files: n paths.
        ids, cameras: `(n,)` int64.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: naming the file, if one is not named so, or the folder holds no images.
    """

    def __init__(self, path):
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"CameraFolder expects a folder of images. Received: {path}")
        self.path = path
        entries = visible(path)
        self.files = [file for file in entries if file.suffix.lower() in IMAGE_SUFFIXES]
        if not self.files:
            folders = [entry.name for entry in entries if entry.is_dir()]
            hint = f". Expected: one of its folders, {', '.join(folders[:5])}" if folders else ""
            raise ValueError(f"{path} holds no images{hint}")
        matches = [_NAME.match(file.name) for file in self.files]
        for file, match in zip(self.files, matches, strict=True):
            if match is None:
                raise ValueError(f"{file} is not named <identity>_c<camera>..., such as 0002_c1s1_000451_03.jpg")
        self.ids = np.array([int(match[1]) for match in matches], np.int64)
        self.cameras = np.array([int(match[2]) for match in matches], np.int64)

    def __repr__(self) -> str:
        people = len(np.unique(self.ids))
        return f"<CameraFolder({str(self.path)!r}): {len(self):,} images of {people:,} identities>"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [file.read_bytes() for file in self.files[index]]
        return self.files[index].read_bytes()
