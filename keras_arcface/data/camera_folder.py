"""Reader of the folders of Market-1501 and DukeMTMC-reID, whose file names contain identity and camera."""

import re
from pathlib import Path

import numpy as np

from keras_arcface._image_files import ImageFiles
from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source
from keras_arcface.data.sources import fingerprint_files
from keras_arcface.data.sources import is_folder
from keras_arcface.data.sources import suffix
from keras_arcface.data.sources import visible_entries

_NAME = re.compile(r"(-?\d{1,18})_c(\d{1,18})(?!\d)", re.ASCII)  # int64


class CameraFolder(Source):
    """Source that reads a folder whose files are named `<identity>_c<camera>...`.

    This is the format of Market-1501 and DukeMTMC-reID, with names such as `0002_c1s1_000451_03.jpg` and
    `0001_c2_f0046182.jpg`. The images are in the order of their names. Write `bounding_box_train` with `write_dataset`
    for training. `keras_arcface.evaluation.reidentify` evaluates the embeddings of `query` and `bounding_box_test`.

    In Market-1501, identity -1 marks junk images, and identity 0 people who are not among the queries (distractors).
    They are in `bounding_box_test` only, and have no class.

    Args:
        path: path of the folder, such as `query` or `bounding_box_test`.
        follow_links: whether to follow links to files outside of `path`. If false, such a file raises an error when it
            is read. Links within `path` are always followed.

    Attributes:
        path: path of the folder.
        files: paths of the n images.
        ids: identity of each image, `(n,)` int64 array.
        cameras: camera of each image, `(n,)` int64 array.
        num_classes: number of identities above 0.
        class_names: identity of each class, such as `"0002"`, in ascending order.
        labels: class of each image, `(n,)` int64 array, with -1 for the identities -1 and 0.

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
        >>> query.class_names, query.labels
        (['0001', '0002'], array([0, 0, 1, 1]))
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
        identities = np.unique(self.ids[self.ids > 0])
        self.num_classes = len(identities)
        self.class_names = [f"{identity:04d}" for identity in identities.tolist()]
        self.labels = np.where(self.ids > 0, np.searchsorted(identities, self.ids), -1)

    def __str__(self) -> str:
        return f"CameraFolder({str(self.path)!r})"

    def __repr__(self) -> str:
        return f"<{self}: {len(self):,} images of {self.num_classes:,} identities>"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        name = self.files[index].name
        return Record(self._reader.read(name), self.labels.item(index), name)

    def fingerprint(self) -> str:
        """Returns a hash that changes if a file is added, removed or written, but not if the folder is moved."""
        return fingerprint_files(self.path, [file.name for file in self.files])


def _match_name(file: Path) -> re.Match:
    match = _NAME.match(file.name)
    if match is None:
        raise ValueError(
            f"Images in {file.parent} must be named <identity>_c<camera>..., such as 0002_c1s1_000451_03.jpg. "
            f"Received: {file.name}"
        )
    return match
