"""Reader of the folders of Market-1501 and DukeMTMC-reID, whose file names contain identity and camera."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_arcface._image_files import ImageFiles
from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.sources import is_folder
from keras_arcface.data.sources import suffix
from keras_arcface.data.sources import visible_entries

_NAME = re.compile(r"(-?\d{1,18})_c(\d{1,18})(?!\d)", re.ASCII)  # int64


class CameraFolder(Sequence):
    """Sequence of the encoded images in a folder whose files are named `<identity>_c<camera>...`.

    This is the format of Market-1501 and DukeMTMC-reID, with names such as `0002_c1s1_000451_03.jpg` and
    `0001_c2_f0046182.jpg`. The images are in the order of their names. `keras_arcface.evaluation.embed_images` accepts
    the sequence, and `keras_arcface.evaluation.reidentify` ignores identity -1, which marks junk images in Market-1501.

    Args:
        path: path of the folder, such as `query` or `bounding_box_test`.
        follow_links: whether to follow links to files outside of `path`. If false, such a file raises an error when it
            is read. Links within `path` are always followed.

    Attributes:
        path: path of the folder.
        files: paths of the n images.
        ids: identity of each image, `(n,)` int64 array.
        cameras: camera of each image, `(n,)` int64 array.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the folder contains no images, or if the name of a file has another form. The message names the
            folder or file.

    Examples:
        >>> query = CameraFolder("Market-1501/query")
        >>> query
        <CameraFolder('Market-1501/query'): 4 images of 2 identities>
        >>> query.files[0].name
        '0001_c1s1_000001_00.jpg'
        >>> query.ids, query.cameras
        (array([1, 1, 2, 2]), array([1, 2, 1, 2]))
    """

    def __init__(self, path, follow_links: bool = False):
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"path must be a folder of images. Received: path={str(path)!r}")
        self.path = path
        entries = visible_entries(path)
        self.files = [path / entry.name for entry in entries if suffix(entry) in IMAGE_SUFFIXES]
        self._reader = ImageFiles(path, follow_links)
        if not self.files:
            folders = [entry.name for entry in entries if is_folder(entry)]
            hint = f". Expected: one of its folders, {', '.join(folders[:5])}" if folders else ""
            raise ValueError(f"path must be a folder of images{hint}. Received: path={str(path)!r}, without images")
        matches = [_match_name(file) for file in self.files]
        self.ids = np.array([int(match[1]) for match in matches], np.int64)
        self.cameras = np.array([int(match[2]) for match in matches], np.int64)

    def __repr__(self) -> str:
        num_ids = len(np.unique(self.ids))
        return f"<CameraFolder({str(self.path)!r}): {len(self):,} images of {num_ids:,} identities>"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._reader.read(file.name) for file in self.files[index]]
        return self._reader.read(self.files[index].name)


def _match_name(file: Path) -> re.Match:
    match = _NAME.match(file.name)
    if match is None:
        raise ValueError(
            f"Images in {file.parent} must be named <identity>_c<camera>..., such as 0002_c1s1_000451_03.jpg. "
            f"Received: {file.name}"
        )
    return match
