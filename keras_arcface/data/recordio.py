"""RecordIO files, in which MS1M, CASIA, Glint360K and WebFace are handed on, read without mxnet.

A record is a magic number (4 bytes), the kind and length of what follows (4), the data, and zeros up to a multiple of
four. A payload in which the magic number occurs was split there into several such parts. Inside the data stand a
header with the label, and the encoded image. All numbers are little-endian.
"""

import functools
import hashlib
import logging
import os
import struct
import warnings
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_arcface.data.sources import Record

_MAGIC = b"\x0a\x23\xd7\xce"
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")  # flag, label, id, id2
_LABEL = struct.Struct("<f")
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_CHUNK = 1 << 20
# The first label of a record lies within its first 36 bytes: frame, header, one float32.
_HEAD = _FRAME.size + _HEADER.size + 4
# Records shorter than this are looked into when the file is opened: those without an image number the identities.
_SHORT = 256
# float32 has every integer up to here; beyond, neighboring classes may have got one label.
_EXACT_LABELS = 2**24

_log = logging.getLogger(__name__)


class RecordIO:
    """The images of a RecordIO file (`.rec`), with or without its index (`.idx`) and `property`.

    An index must have every record of the file: one that lacks some is refused. Records without an image, which in
    MS1M's layout number the identities, are skipped. Labels are those of the images: the first where there are several.
    A damaged record raises when it is read, and costs no other.

    Args:
        path: the `.rec` file, or a folder that holds `train.rec`. Beside it, `train.idx` is read if it exists, and
            line 1 of `property`: `num_classes,height,width`.
        index: whether to use the index; None to use it if there is one. Without, the file is scanned, and what lies
            between a damaged place and the next record that can be told from it counts as one damaged record.
        labels: integers to take instead of those in the file, one per image in order. RecordIO holds labels as
            float32, so that from 2^24 = 16777216 on two classes may have got one label: such labels are refused.

    Attributes:
        num_classes: from `property`, or the largest label plus 1.
        image_size: `(height, width)` from `property`, or None.
        labels: `(len,)` int64 array; -1 for a record that cannot be read.
        keys: `(len,)` int64 array: the keys of the index, ascending; without an index, the offsets.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and the place, for a damaged index or `property`; when a record is asked for, for
            a damaged record.

    >>> faces = RecordIO("faces_emore/train.rec")
    >>> image, label, name = faces[0]
    """

    def __init__(self, path, index: bool | None = None, labels=None):
        path = Path(path)
        self.path = path / "train.rec" if path.is_dir() else path
        if not self.path.is_file():
            raise FileNotFoundError(f"RecordIO expects a .rec file, or a folder with train.rec. Received: {path}")
        self._name = self.path.name
        self._size = self.path.stat().st_size
        self._modified = self.path.stat().st_mtime_ns
        self._open()
        index_path = self.path.with_suffix(".idx")
        self._is_indexed = index_path.is_file() if index is None else index
        if self._is_indexed:
            keys, offsets, ends = _read_index(index_path, self._size, self.path)
            _refuse_part_of_index(self._read, offsets, ends, self.path)
        else:
            offsets, ends = _scan(self._read, self._size, self.path)
            keys = offsets
        images = self._holds_image(offsets, ends)
        self.keys, self._offsets, self._ends = keys[images], offsets[images], ends[images]
        self._ids_are_keys = self._is_indexed and self._do_ids_agree_with_keys()
        self._property_path = self.path.with_name("property")
        self._property = _read_property(self._property_path)
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != (len(self),) or labels.dtype.kind not in "iu" or (labels < 0).any():
                raise ValueError(
                    f"labels expects {len(self)} integers from 0 on, one per image of {self.path}. Received: an array "
                    f"of shape {labels.shape} and type {labels.dtype}"
                )
            labels = labels.astype(np.int64)
            self._expect_class(int(labels.max(initial=-1)), "labels")
        self._given_labels = labels

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Record:
        key, offset, end = self.keys.item(index), self._offsets.item(index), self._ends.item(index)
        label, id_, image = self._content(offset, end)
        name = f"{self._name}[{key}]" if self._is_indexed else f"{self._name}@{offset}"
        if self._ids_are_keys and id_ != key:
            raise ValueError(f"{self.path}: {name} at offset {offset} is damaged: it says that its key is {id_}")
        if self._given_labels is not None:
            return Record(image, self._given_labels.item(index), name)
        label = _integer(label, self.path, offset)
        self._expect_class(label, f"{self.path}: {name} at offset {offset}")
        return Record(image, label, name)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"RecordIO({str(self.path)!r})"

    def __repr__(self) -> str:
        # Counting classes without `property` reads all labels, which takes long.
        is_known = self._property or "labels" in self.__dict__ or self._given_labels is not None
        return f"<{self}: {len(self):,} images" + (f" of {self.num_classes:,} classes>" if is_known else ">")

    @functools.cached_property
    def labels(self) -> np.ndarray:
        if self._given_labels is not None:
            return self._given_labels
        places = zip(self._offsets.tolist(), self._ends.tolist(), strict=True)
        if len(self) > 100_000:
            places = tqdm(places, "reading labels", len(self), unit="image", unit_scale=True, dynamic_ncols=True)
        return np.fromiter((self._label_or_minus_one(*place) for place in places), np.int64, len(self))

    @functools.cached_property
    def num_classes(self) -> int:
        return self._property[0] if self._property else int(self.labels.max(initial=-1)) + 1

    @property
    def image_size(self) -> tuple[int, int] | None:
        return self._property[1:] if self._property else None

    def fingerprint(self) -> str:
        """Changes when the file does."""
        places = hashlib.sha256(self._offsets.tobytes() + self.keys.tobytes()).hexdigest()
        return f"{self._size} bytes, modified {self._modified}, index {places}"

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file, length, offset)

    def _content(self, offset: int, end: int) -> tuple[float, int, bytes]:
        return _unpack(self._read(offset, end - offset), offset, self.path)

    def _holds_image(self, offsets, ends) -> np.ndarray:
        """Which records hold an image. A damaged one counts as if it did, so that it is not passed over silently."""
        images = np.ones(len(offsets), bool)
        for short in np.flatnonzero(ends - offsets < _SHORT):
            try:
                images[short] = bool(self._content(offsets[short], ends[short])[2])
            except ValueError:
                continue
        return images

    def _do_ids_agree_with_keys(self) -> bool:
        """Whether the ids inside the records are the keys of the index; a shuffled copy can have others."""
        agree, differ = 0, 0
        for index in np.linspace(0, len(self) - 1, num=min(32, len(self)), dtype=int):
            try:
                _, id_, _ = self._content(self._offsets[index], self._ends[index])
            except ValueError:
                continue
            agree, differ = (agree + 1, differ) if id_ == self.keys[index] else (agree, differ + 1)
        return agree >= 7 * differ  # some may be damaged

    def _expect_class(self, label: int, where: str) -> None:
        if self._property and label >= self._property[0]:
            raise ValueError(
                f"{where}: label {label}, but {self._property_path} says that there are {self._property[0]} classes. "
                "Expected: the number of classes, at least the largest label plus 1, as the first number there; or no "
                "such file"
            )

    def _label_or_minus_one(self, offset: int, end: int) -> int:
        head = self._read(offset, min(_HEAD, end - offset))
        try:
            magic, length = _FRAME.unpack_from(head)
            flag, label, _, _ = _HEADER.unpack_from(head, _FRAME.size)
            labels_end = _HEADER.size + 4 * flag
            if magic != _MAGIC or _FRAME.size + length + -length % 4 != end - offset or labels_end > length:
                label, _, _ = self._content(offset, end)
            elif flag:
                (label,) = _LABEL.unpack_from(head, _FRAME.size + _HEADER.size)
            return _integer(label, self.path, offset)
        except (ValueError, struct.error):
            return -1


def _payload(raw: bytes, offset: int, path: Path) -> bytes:
    """The data of the record that fills these bytes, its parts put together."""

    def damaged(reason: str) -> ValueError:
        return ValueError(f"{path}: damaged record at offset {offset}: {reason}")

    parts, at = [], 0
    while True:
        if len(raw) - at < _FRAME.size:
            raise damaged("it is cut short")
        magic, kind = _FRAME.unpack_from(raw, at)
        kind, length = kind >> _LENGTH_BITS, kind & (1 << _LENGTH_BITS) - 1
        if magic != _MAGIC:
            raise damaged(f"expected the magic number {_MAGIC.hex()}, received {magic.hex()}, {at} bytes into it")
        if kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise damaged(f"a part of kind {kind} where {'2 or 3' if parts else '0 or 1'} is expected")
        at += _FRAME.size
        if length > len(raw) - at:
            raise damaged(f"it says it has {length} bytes more, and {len(raw) - at} are there")
        parts.append(raw[at : at + length])
        at += length
        if any(raw[at : at + -length % 4]):
            raise damaged(f"it is filled up with {raw[at : at + -length % 4].hex()} where zeros are expected")
        at += -length % 4
        if kind in (_WHOLE, _LAST):
            break
    if at < len(raw) and raw[at : at + 4] == _MAGIC:
        raise ValueError(_missing_in_index(path, offset, offset + at))
    if at != len(raw):
        raise damaged(f"it ends {abs(len(raw) - at)} bytes {'before' if at < len(raw) else 'behind'} its place")
    return parts[0] if len(parts) == 1 else _MAGIC.join(parts)


def _unpack(raw: bytes, offset: int, path: Path) -> tuple[float, int, bytes]:
    """Label, id and image of the record that fills these bytes."""
    # Nearly every record is whole, and its kind, 0, leaves the length as it is.
    magic, length = _FRAME.unpack_from(raw) if len(raw) >= _FRAME.size else (b"", 0)
    start, end = _FRAME.size, _FRAME.size + length
    if magic != _MAGIC or end + -length % 4 != len(raw) or any(raw[end:]):
        raw = _payload(raw, offset, path)
        start, end = 0, len(raw)
    if end - start < _HEADER.size:
        raise ValueError(f"{path}: damaged record at offset {offset}: {end - start} bytes hold no header")
    flag, label, id_, _ = _HEADER.unpack_from(raw, start)
    start += _HEADER.size
    if flag:
        if flag > (end - start) // 4:
            raise ValueError(f"{path}: damaged record at offset {offset}: {flag} labels in {end - start} bytes")
        (label,) = _LABEL.unpack_from(raw, start)
    return label, id_, raw[start + 4 * flag : end]


def _integer(label: float, path: Path, offset: int) -> int:
    if label >= _EXACT_LABELS:
        raise ValueError(
            f"{path}: the record at offset {offset} has label {label:.0f}. RecordIO holds labels as float32, which "
            f"cannot tell neighboring classes apart from {_EXACT_LABELS} on. Expected: RecordIO(path, labels=...) "
            "with the true labels"
        )
    if not (label >= 0 and label.is_integer()):
        raise ValueError(f"{path}: damaged record at offset {offset}: its label is {label}")
    return int(label)


def _read_index(path: Path, size: int, records: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys in ascending order, where their records start, and where the next record in the file does."""

    def damaged(reason: str) -> ValueError:
        return ValueError(f"{path} is damaged: {reason}. Without the index the file can be scanned: index=False")

    if not path.is_file():
        raise FileNotFoundError(f"There is no index at {path}. Expected: lines of `key<tab>offset`, or index=False")
    try:
        with warnings.catch_warnings(action="ignore"):  # of an empty file
            entries = np.loadtxt(path, np.int64, comments=None, delimiter="\t", ndmin=2, encoding="latin1")
    except (ValueError, OverflowError) as error:
        raise damaged(str(error)) from error
    if entries.size == 0:
        raise damaged("it is empty")
    if entries.shape[1:] != (2,):
        raise damaged(f"expected lines of `key<tab>offset`, received {entries.shape[1]} columns")
    entries = entries[np.argsort(entries[:, 0], kind="stable")]
    keys, offsets = entries[:, 0].copy(), entries[:, 1].copy()
    in_file = np.argsort(offsets, kind="stable")
    starts = offsets[in_file]
    wrong = (offsets < 0) | (offsets >= size) | (offsets % 4 != 0)
    if wrong.any():
        key, offset = entries[np.argmax(wrong)]
        raise damaged(f"key {key} has offset {offset}; expected: a multiple of 4 below {size}, the size of {records}")
    for what, ordered in (("key", keys), ("offset", starts)):
        twice = ordered[1:] == ordered[:-1]
        if twice.any():
            raise damaged(f"{what} {ordered[1:][twice][0]} occurs more than once")
    if keys[0] < 0:
        raise damaged(f"key {keys[0]} is negative")
    if starts[0] != 0:
        raise damaged(f"no key has offset 0, where the first record is; it starts at {starts[0]}")
    ends = np.empty_like(offsets)
    ends[in_file] = np.append(starts[1:], size)
    return keys, offsets, ends


def _refuse_part_of_index(read: Callable[[int, int], bytes], offsets, ends, path: Path) -> None:
    """Raises if another record follows one of some, before where the next of the index starts."""
    in_file = np.argsort(offsets, kind="stable")
    for place in in_file[np.unique(np.linspace(0, len(offsets) - 1, 33, dtype=int))]:
        offset, expected = offsets.item(place), ends.item(place)
        end = _end_of_record(read, offset, expected)
        if end is not None and end < expected and read(end, 4) == _MAGIC:
            raise ValueError(_missing_in_index(path, offset, end))


def _missing_in_index(path: Path, offset: int, missing: int) -> str:
    return (
        f"{path.with_suffix('.idx')} has only part of the records of {path}: after the record at offset {offset} "
        f"another record follows at offset {missing} that the index does not have. Expected: an index with every "
        "record, or RecordIO(path, index=False), which scans the file"
    )


def _scan(read: Callable[[int, int], bytes], size: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where records start and end, from the file itself."""
    starts, ends = [], []
    start = 0
    with tqdm(total=size, desc=f"scanning {path.name}", unit="B", unit_scale=True, delay=1, leave=False) as progress:
        while start < size:
            end = _end_of_record(read, start, size)
            if end is None or not (end == size or read(end, 4) == _MAGIC):
                following = _next_record(read, start + 4, size)
                # Is this record's length wrong, or the next one's magic number? In the latter case all else fits.
                if end is None or end > following or _end_of_frame(read, end) != following:
                    _log.warning("%s: damaged between offsets %d and %d", path, start, following)
                    end = following
            starts.append(start)
            ends.append(end)
            progress.update(end - start)
            start = end
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _end_of_record(read, start: int, size: int) -> int | None:
    """Where a record ends, by its own account; None if that cannot be."""
    at, expected = start, (_WHOLE, _FIRST)
    while True:
        frame = read(at, _FRAME.size)
        if len(frame) < _FRAME.size:
            return None
        magic, kind = _FRAME.unpack(frame)
        kind >>= _LENGTH_BITS
        at = _end_of_frame(read, at)
        if magic != _MAGIC or kind not in expected or at > size:
            return None
        if kind in (_WHOLE, _LAST):
            return at
        expected = (_MIDDLE, _LAST)


def _end_of_frame(read, start: int) -> int | None:
    """Where a part ends, by its length."""
    frame = read(start, _FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length = _FRAME.unpack(frame)[1] & (1 << _LENGTH_BITS) - 1
    return start + _FRAME.size + length + -length % 4


def _next_record(read, start: int, size: int) -> int:
    """The next place where a record may start; the end of the file if there is none."""
    while start < size:
        chunk = read(start, _CHUNK)
        at = chunk.find(_MAGIC)
        while at >= 0:
            frame = read(start + at, _FRAME.size)
            is_whole = (start + at) % 4 == 0 and len(frame) == _FRAME.size
            if is_whole and _FRAME.unpack(frame)[1] >> _LENGTH_BITS in (_WHOLE, _FIRST):
                return start + at
            at = chunk.find(_MAGIC, at + 1)
        start += max(1, len(chunk) - 3)
    return size


def _read_property(path: Path) -> tuple[int, int, int] | None:
    if not path.is_file():
        return None
    line = path.read_text("latin1").partition("\n")[0]
    try:
        num_classes, height, width = map(int, line.split(","))
        if min(num_classes, height, width) <= 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{path} is damaged. Expected: `num_classes,height,width` in line 1. Received: {line[:80]!r}"
        ) from None
    return num_classes, height, width
