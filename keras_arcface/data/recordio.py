"""Source that reads RecordIO files, the format of MS1M, CASIA, Glint360K and WebFace. mxnet is not required."""

import functools
import hashlib
import os
import weakref
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_arcface.data import recordio_format
from keras_arcface.data.recordio_index import check_index_is_complete
from keras_arcface.data.recordio_index import read_index
from keras_arcface.data.recordio_index import read_property
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source

# Shorter records are read when the file is opened, because some describe an identity and have no image.
_MAX_BYTES_WITHOUT_IMAGE = 256
_NUM_SAMPLES = 32  # number of records whose id is compared with the key


class RecordIO(Source):
    """Source that reads a RecordIO file (`.rec`), with or without its index (`.idx`) and `property`.

    MS1M, CASIA-WebFace, Glint360K and WebFace are distributed in this format. mxnet is not required. The index must
    have every record of the file, and an incomplete one raises an error. Records without an image, which describe the
    identities in the layout of MS1M, are skipped. If an image has several labels, the first is used. A damaged record
    raises an error when it is read, and does not affect other records.

    Args:
        path: path of the `.rec` file, or of a folder that contains `train.rec`. In the same folder, the index (such as
            `train.idx`) is read if it exists, and `num_classes,height,width` in line 1 of `property`.
        index: whether to use the index. None uses it if it exists. Without an index the file is scanned, and a damaged
            section up to the next valid record is treated as one damaged record.
        labels: integers that replace the labels in the file, one per image in order. RecordIO stores labels as float32,
            so from 2^24 = 16777216 two classes may have the same label in the file; such labels raise an error.

    Attributes:
        num_classes: number of classes in `property`, or largest label plus 1.
        image_size: `(height, width)` in `property` in pixels, or None.
        labels: labels of all records, `(len,)` int64 array, with -1 for a record that cannot be read.
        keys: keys of the index in ascending order, or offsets without an index, `(len,)` int64 array.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the index or `property` is damaged, or when a damaged record is read. The message names the file
            and the line or offset.

    Examples:
        >>> faces = RecordIO("recordio/train.rec")
        >>> faces
        <RecordIO('recordio/train.rec'): 8 images of 2 classes>
        >>> image, label, name = faces[0]
        >>> label, name
        (0, 'train.rec[1]')
        >>> info = write_dataset(faces, "faces_tfrecord")
    """

    def __init__(self, path, index: bool | None = None, labels=None):
        path = Path(path)
        self.path = path / "train.rec" if path.is_dir() else path
        if not self.path.is_file():
            raise FileNotFoundError(
                f"path must be a .rec file, or a folder that contains train.rec. Received: path={str(path)!r}"
            )
        status = self.path.stat()
        self._size, self._modified = status.st_size, status.st_mtime_ns
        self._open()
        index_path = self.path.with_suffix(".idx")
        self._has_index = index_path.is_file() if index is None else index
        if self._has_index:
            keys, offsets, ends = read_index(index_path, self._size, self.path)
            check_index_is_complete(self._read, offsets, ends, self.path)
        else:
            offsets, ends = recordio_format.scan(self._read, self._size, self.path)
            keys = offsets
        has_image = self._has_image(offsets, ends)
        self.keys, self._offsets, self._ends = keys[has_image], offsets[has_image], ends[has_image]
        self._ids_are_keys = self._has_index and self._do_ids_match_keys()
        self._property_path = self.path.with_name("property")
        self._property = read_property(self._property_path)
        self.image_size = self._property[1:] if self._property else None
        self._given_labels = None if labels is None else self._check_given_labels(np.asarray(labels))

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Record:
        key, offset, end = self.keys.item(index), self._offsets.item(index), self._ends.item(index)
        label, id_, image = self._unpack(offset, end)
        name = f"{self.path.name}[{key}]" if self._has_index else f"{self.path.name}@{offset}"
        if self._ids_are_keys and id_ != key:
            raise ValueError(f"{self.path}: {name} at offset {offset} is damaged. Expected: key {key}. Received: {id_}")
        if self._given_labels is not None:
            return Record(image, self._given_labels.item(index), name)
        class_ = recordio_format.check_label(label, self.path, offset)
        self._check_class(class_, f"{self.path}: {name} at offset {offset}")
        return Record(image, class_, name)

    def __str__(self) -> str:
        return f"RecordIO({str(self.path)!r})"

    def __repr__(self) -> str:
        # Without `property`, the number of classes is only known after all labels are read, which is slow.
        is_known = self._property or "labels" in self.__dict__ or self._given_labels is not None
        return f"<{self}: {len(self):,} images" + (f" of {self.num_classes:,} classes>" if is_known else ">")

    @functools.cached_property
    def labels(self) -> np.ndarray:
        if self._given_labels is not None:
            return self._given_labels
        positions = zip(self._offsets.tolist(), self._ends.tolist(), strict=True)
        progress = tqdm(
            positions, "reading labels", len(self), unit="image", unit_scale=True, dynamic_ncols=True, delay=1
        )
        return np.fromiter((self._read_label(*position) for position in progress), np.int64, len(self))

    @functools.cached_property
    def num_classes(self) -> int:
        return self._property[0] if self._property else super().num_classes

    def fingerprint(self) -> str:
        """Returns a string that changes if the file or its index changes."""
        index = hashlib.sha256(self._offsets.tobytes() + self.keys.tobytes()).hexdigest()
        return f"{self._size} bytes, modified {self._modified}, index {index}"

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return os.pread(self._file, num_bytes, offset)

    def _unpack(self, offset: int, end: int) -> tuple[float, int, bytes]:
        return recordio_format.unpack_record(self._read(offset, end - offset), offset, self.path)

    def _read_label(self, offset: int, end: int) -> int:
        """Returns the label of a record, or -1 if it cannot be read."""
        prefix = self._read(offset, min(recordio_format.LABEL_PREFIX_BYTES, end - offset))
        label = recordio_format.unpack_label(prefix, end - offset)
        try:
            if label is None:
                label, _, _ = self._unpack(offset, end)
            return recordio_format.check_label(label, self.path, offset)
        except ValueError:
            return -1

    def _has_image(self, offsets: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Returns the mask of the records with an image. Damaged records are included, so that reading them raises."""
        has_image = np.ones(len(offsets), bool)
        for index in np.flatnonzero(ends - offsets < _MAX_BYTES_WITHOUT_IMAGE):
            try:
                has_image[index] = bool(self._unpack(offsets[index], ends[index])[2])
            except ValueError:
                continue
        return has_image

    def _do_ids_match_keys(self) -> bool:
        """Returns whether the ids in the records equal the keys of the index. In a shuffled copy they may differ."""
        num_equal, num_different = 0, 0
        for index in np.linspace(0, len(self) - 1, num=min(_NUM_SAMPLES, len(self)), dtype=int):
            try:
                _, id_, _ = self._unpack(self._offsets[index], self._ends[index])
            except ValueError:
                continue
            if id_ == self.keys[index]:
                num_equal += 1
            else:
                num_different += 1
        return num_equal >= 7 * num_different  # tolerates some damaged records

    def _check_class(self, label: int, where: str) -> None:
        if self._property and label >= self._property[0]:
            raise ValueError(
                f"{where} must have a label below {self._property[0]}, the number of classes in {self._property_path}. "
                f"If that is too small, correct or remove the file. Received: label={label}"
            )

    def _check_given_labels(self, labels: np.ndarray) -> np.ndarray:
        if labels.shape != (len(self),) or labels.dtype.kind not in "iu" or (labels < 0).any():
            raise ValueError(
                f"labels must be {len(self)} integers of at least 0, one per image of {self.path}. "
                f"Received: an array of shape {labels.shape} and type {labels.dtype}"
            )
        labels = labels.astype(np.int64)
        self._check_class(int(labels.max(initial=-1)), "labels")
        return labels
