"""Features of images in one binary file each, the format of MegaFace's development kit."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._files import write_all
from keras_arcface._files import write_error
from keras_arcface._image_files import ImageFiles
from keras_arcface.data.sources import visible_entries

_HEADER = struct.Struct("<4i")  # rows, columns, bytes per row, type of a matrix of OpenCV
_FLOAT32 = 5  # CV_32F
_MAX_DIM = 2**16


class FeatureFiles:
    """Features (embeddings) of images in one binary file each. A slice of the object is an array.

    The feature of the image `<name>` is in the file `<directory>/<name><ending>`, as in MegaFace's development kit and
    in InsightFace's program for MegaFace. A file has four int32 numbers, the rows, the columns, the bytes per row and
    the type 5 (`CV_32F`) of a matrix of OpenCV, and then its float32 values, all of them little-endian. The matrix has
    a single column or row.

    Files are read when a slice is accessed, so the memory does not limit their number.
    `keras_arcface.evaluation.identify_among_distractors` reads them in blocks.

    Args:
        directory: path of the folder.
        names: names of the n images, paths relative to the folder.
        ending: text after the name of an image in the name of its file, such as `"_r100.bin"`. None selects the ending
            in `.bin` of the files of the first image, if there is only one.
        follow_links: whether to follow links to files and folders outside of `directory`. Links within it are always
            followed.

    Attributes:
        names: names of the images.
        ending: the ending.
        dim: dimension of the features, that of the first one.
        shape: `(n, dim)`.

    Raises:
        FileNotFoundError: if the first image has no file, or, when a slice is accessed, another one.
        ValueError: if `names` is empty, the first image has files with several endings, or a file is damaged, has
            another format or another dimension. The message names the file.

    Examples:
        >>> names = ["1/a@N00/0.jpg", "1/a@N00/1.jpg", "2/b@N00/0.jpg"]
        >>> write_feature_files("features", names, np.eye(3), "_ours.bin")
        >>> features = FeatureFiles("features", names)
        >>> features.shape, features.ending
        ((3, 3), '_ours.bin')
        >>> features[1:]
        array([[0., 1., 0.],
               [0., 0., 1.]], dtype=float32)

    References:
        - [The MegaFace Benchmark](https://arxiv.org/abs/1512.00596)
    """

    def __init__(self, directory, names: Sequence[str], ending: str | None = None, follow_links: bool = False):
        check("names", names, len(names) > 0, "names of one or more images")
        self._files = ImageFiles(directory, follow_links)
        self.names = names
        self.ending = _find_ending(self._files, names[0]) if ending is None else ending
        self.dim = len(self._read(names[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """Number and dimension of the features."""
        return len(self.names), self.dim

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Returns the features of a slice of m images, float32 array `(m, dim)`."""
        names = self.names[rows]
        features = np.empty((len(names), self.dim), np.float32)
        for row, name in enumerate(names):
            feature = self._read(name)
            if len(feature) != self.dim:
                raise ValueError(
                    f"{self._path(name)} must have {self.dim} values, as {self._path(self.names[0])}. "
                    f"Received: {len(feature)} values"
                )
            features[row] = feature
        return features

    def _read(self, name: str) -> np.ndarray:
        try:
            content = self._files.read(name + self.ending)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self._path(name)} must be the feature of an image. Received: no such file"
            ) from None
        try:
            return _decode(content)
        except ValueError as error:
            raise ValueError(f"{self._path(name)}: {error}") from None

    def _path(self, name: str) -> str:
        return os.path.join(self._files.root, name + self.ending)


def write_feature_files(directory, names: Sequence[str], features: Any, ending: str) -> None:
    """Writes features (embeddings) of images to one binary file each, for MegaFace's development kit.

    Existing files are replaced. If the process is killed, a file can be incomplete, which `FeatureFiles` detects.

    Args:
        directory: path of the folder, which is created.
        names: names of the n images, paths relative to the folder.
        features: `(n, dim)` numbers, with dim at most 65536.
        ending: text after the name of an image in the name of its file, such as `"_r100.bin"`.

    Raises:
        ValueError: if `features` has another shape, or a name leads out of the folder.
        OSError: if a file cannot be written. The message names it.

    Examples:
        >>> write_feature_files("features", ["Ann_Smith/Ann_Smith_1.png"], [[0.6, 0.8]], "_ours.bin")
        >>> Path("features/Ann_Smith/Ann_Smith_1.png_ours.bin").stat().st_size
        24
    """
    features = np.asarray(features)
    is_matrix = features.ndim == 2 and features.dtype.kind in "fiu" and 1 <= features.shape[1] <= _MAX_DIM
    if not is_matrix or len(features) != len(names):
        raise ValueError(
            f"features must be numbers of shape ({len(names)}, dim), one row per name, with dim at most {_MAX_DIM}. "
            f"Received: shape {features.shape}, {features.dtype}"
        )
    files = ImageFiles(directory, follow_links=False)
    header = _HEADER.pack(features.shape[1], 1, 4, _FLOAT32)
    folder = None
    for name, feature in zip(names, features.astype("<f4"), strict=True):
        path = os.path.join(files.root, name + ending)
        try:
            if os.path.dirname(path) != folder:
                folder = os.path.dirname(path)
                files.check_folder(folder)
                os.makedirs(folder, exist_ok=True)
            with open(path, "wb", buffering=0) as file:
                write_all(file, header + feature.tobytes())
        except OSError as error:
            raise write_error(error, Path(path), f"{_HEADER.size + 4 * len(feature)}") from error


def _decode(content: bytes) -> np.ndarray:
    """Returns the vector in the content of a file."""
    if len(content) < _HEADER.size:
        raise ValueError(f"expected at least {_HEADER.size} bytes. Received: {len(content)} bytes")
    rows, columns, stride, kind = _HEADER.unpack_from(content)
    if kind != _FLOAT32 or min(rows, columns) != 1 or max(rows, columns) > _MAX_DIM or stride != 4 * columns:
        raise ValueError(
            f"expected a header of a matrix with one row or column, at most {_MAX_DIM} values, 4 bytes per column and "
            f"type {_FLOAT32}. Received: {rows} rows, {columns} columns, {stride} bytes per row, type {kind}"
        )
    expected = _HEADER.size + rows * stride
    if len(content) != expected:
        raise ValueError(f"expected {expected} bytes for {rows * columns} values. Received: {len(content)} bytes")
    return np.frombuffer(content, "<f4", offset=_HEADER.size)


def _find_ending(files: ImageFiles, name: str) -> str:
    folder, image = os.path.split(os.path.join(files.root, name))
    files.check_folder(folder)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of features. Received: no such folder")
    endings = [
        entry.name.removeprefix(image)
        for entry in visible_entries(folder)
        if entry.name.startswith(image) and entry.name.endswith(".bin")
    ]
    if not endings:
        raise FileNotFoundError(f"{folder} must contain a file {image}<ending>.bin. Received: no such file")
    if len(endings) > 1:
        raise ValueError(
            f"ending must be given if {folder} contains several features of {image}. Expected: one of "
            f"{', '.join(endings[:10])}. Received: ending=None"
        )
    return endings[0]
