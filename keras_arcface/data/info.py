"""Description of a dataset directory in its file `dataset.json`."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_arcface._alignment import check_alignment
from keras_arcface._arguments import check
from keras_arcface._files import is_file_name
from keras_arcface._files import write_atomically
from keras_arcface._image_headers import MAX_PIXELS
from keras_arcface._json import parse_object
from keras_arcface.data import schema
from keras_arcface.data import tfrecord

FILE_NAME = "dataset.json"
_MAX_BYTES = 1 << 30  # of `dataset.json`; the names of 10 million classes take less
_MAX_COUNT = 2**63 - 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Name of a TFRecord file and description of its content.

    Attributes:
        file: name of the file in the dataset directory, without a path.
        num_examples: number of images in the file.
        num_bytes: size of the file.
        sha256: checksum of the file.

    Raises:
        ValueError: if a value has another type or is impossible.
    """

    file: str
    num_examples: int
    num_bytes: int
    sha256: str

    def __post_init__(self):
        check("file", self.file, type(self.file) is str and is_file_name(self.file), "a file name without a path")
        _check_integer("num_examples", self.num_examples, 0)
        _check_integer("num_bytes", self.num_bytes, self.num_examples * tfrecord.MIN_RECORD_BYTES)
        _check_text("sha256", self.sha256, _SHA256.fullmatch, "64 hexadecimal digits")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Source and arguments of a call of `write_dataset`. Equal conversions write equal bytes.

    Attributes:
        images: number of images to write.
        labels: sha256 of the labels and class names.
        fingerprint: sha256 of the `fingerprint()` of the source.
        examples_per_shard: argument of `write_dataset`.
        seed: argument of `write_dataset`.
        check: argument of `write_dataset`.
        min_images: argument of `write_dataset`.

    Raises:
        ValueError: if a value has another type.
    """

    images: int
    labels: str
    fingerprint: str
    examples_per_shard: int
    seed: int
    check: bool
    min_images: int

    def __post_init__(self):
        for name, type_ in self.__annotations__.items():
            value = getattr(self, name)
            check(name, value, type(value) is type_, f"of type {type_.__name__}")


@dataclasses.dataclass(frozen=True, repr=False)
class DatasetInfo:
    """Description of a dataset directory, as returned by `write_dataset` and `load_info`.

    Attributes:
        num_classes: number of classes. Labels are in `[0, num_classes)`.
        num_examples: number of images.
        image_size: `(height, width)` of every image, in pixels.
        shards: descriptions of the TFRecord files, in order. A shard has the attributes `file`, `num_examples`,
            `num_bytes` and `sha256`.
        source: readable description of the source.
        alignment: alignment of the faces: "five_points" for that of `align`, "none", or None if it is not recorded.
        class_names: name of each class, or None if the source has no names.
        source_labels: label of each class in the source, or None if all labels are unchanged.
        skipped: one message per skipped image, with the reason.
        conversion: source and arguments by which `write_dataset` recognizes the dataset, or None if not recorded.
        schema_version: version of the record format.

    Raises:
        ValueError: if a value has another type, is impossible, or does not match another one. The message names the
            value.

    Examples:
        >>> info = load_info("faces")
        >>> info
        <DatasetInfo: 8 images of 2 classes, 32 x 32, in 1 shards, from ...>
        >>> info.num_classes, info.class_names, info.image_size, info.alignment
        (2, ('ann', 'bob'), (32, 32), None)
        >>> info.shards[0].file, info.shards[0].num_examples
        ('00000-of-00001.tfrecord', 8)
    """

    num_classes: int
    num_examples: int
    image_size: tuple[int, int]
    shards: tuple[Shard, ...]
    source: str
    alignment: str | None = None
    class_names: tuple[str, ...] | None = None
    source_labels: tuple[int, ...] | None = None
    skipped: tuple[str, ...] = ()
    conversion: Conversion | None = None
    schema_version: int = schema.VERSION

    def __post_init__(self):
        _check_integer("num_classes", self.num_classes, 1)
        _check_integer("num_examples", self.num_examples, 1)
        _check_items("image_size", self.image_size, int, lambda size: size > 0)
        is_size = len(self.image_size) == 2 and math.prod(self.image_size) <= MAX_PIXELS
        check("image_size", self.image_size, is_size, f"(height, width) with at most {MAX_PIXELS} pixels")
        _check_text("source", self.source)
        check_alignment(self.alignment, self.image_size)
        _check_items("skipped", self.skipped, str)
        for name, type_ in (("class_names", str), ("source_labels", int)):
            values = getattr(self, name)
            if values is not None:
                _check_items(name, values, type_)
                is_complete = len(values) == self.num_classes
                check(name, values, is_complete, f"a list with {self.num_classes} items, num_classes")
        _check_items("shards", self.shards, Shard)
        check("conversion", self.conversion, isinstance(self.conversion, Conversion | None), "a Conversion or None")
        files = {shard.file for shard in self.shards}
        check("shards", self.shards, len(files) == len(self.shards), "files with different names")
        num_examples = sum(shard.num_examples for shard in self.shards)
        expected = f"{num_examples}, the number of images in all shards"
        check("num_examples", self.num_examples, self.num_examples == num_examples, expected)
        # Every class had an image in the source, which was written or skipped.
        largest = num_examples + len(self.skipped)
        check("num_classes", self.num_classes, self.num_classes <= largest, f"at most {largest}, the number of images")

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"<DatasetInfo: {self.num_examples:,} images of {self.num_classes:,} classes, {height} x {width}, in "
            f"{len(self.shards):,} shards, from {self.source}>"
        )

    def save(self, directory) -> Path:
        """Writes `dataset.json` atomically, with a checksum of its content.

        Args:
            directory: path of the dataset directory, which must exist.

        Returns:
            The path of the file.

        Raises:
            OSError: if the file cannot be written.
        """
        path = Path(directory) / FILE_NAME
        fields = dataclasses.asdict(self)
        text = json.dumps({**fields, "sha256": _checksum(fields)}, indent=1, ensure_ascii=False) + "\n"
        # Names of files may contain bytes that are not UTF-8. Their escapes are valid in JSON.
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
        return path


def load_info(directory) -> DatasetInfo:
    """Reads the `dataset.json` of a directory that `write_dataset` wrote.

    Args:
        directory: path of the dataset directory.

    Returns:
        The `DatasetInfo` of the directory.

    Raises:
        FileNotFoundError: if the directory has no `dataset.json`.
        ValueError: if the file is modified, damaged, larger than 1 GiB, or has an unknown schema version. The message
            names the file.

    Examples:
        >>> info = load_info("faces")
        >>> info.num_examples, info.num_classes, info.image_size
        (8, 2, (32, 32))
        >>> head = keras_arcface.ArcFace(info.num_classes)
    """
    path = Path(directory) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"directory must be one that keras_arcface.data.write_dataset wrote. {FILE_NAME} is written last, so "
            f"writing did not finish if it is missing. Received: directory={str(directory)!r}, without {FILE_NAME}"
        )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"expected at most {_MAX_BYTES} bytes. Received: {path.stat().st_size} bytes")
        fields = parse_object(path.read_bytes())
        version = fields.get("schema_version")
        check("schema_version", version, type(version) is int and version == schema.VERSION, f"{schema.VERSION}")
        if fields.pop("sha256", None) != _checksum(fields):
            raise ValueError("expected content that matches its checksum. Received: other content")
        return _from_fields(fields)
    except ValueError as error:
        raise ValueError(
            f"{path} must be an unmodified file that keras_arcface.data.write_dataset wrote. Received: {error}"
        ) from error


def _from_fields(fields: dict) -> DatasetInfo:
    """Builds a `DatasetInfo` from the fields of a JSON file."""
    fields = {name: tuple(value) if type(value) is list else value for name, value in fields.items()}
    if type(fields.get("shards")) is tuple:
        fields["shards"] = tuple(_build(Shard, shard, f"shards[{i}]: ") for i, shard in enumerate(fields["shards"]))
    if fields.get("conversion") is not None:
        fields["conversion"] = _build(Conversion, fields["conversion"], "conversion: ")
    return _build(DatasetInfo, fields, "")


def _build(type_, fields, where: str):
    """Builds a dataclass from a JSON object."""
    try:
        check("fields", fields, type(fields) is dict, "a JSON object")
        declared = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(type_)}
        missing = [name for name, is_required in declared.items() if is_required and name not in fields]
        check("fields", fields, not missing, f"an object with {', '.join(missing)}")
        unknown = sorted(fields.keys() - declared.keys())
        check("fields", unknown, not unknown, f"those of {type_.__name__}")
        return type_(**fields)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def _check_integer(name: str, value, minimum: int) -> None:
    is_valid = type(value) is int and minimum <= value <= _MAX_COUNT
    check(name, value, is_valid, f"an integer in [{minimum}, {_MAX_COUNT}]")


def _check_text(name: str, value, is_valid: Callable[[str], Any] = lambda text: True, expected: str = "a text") -> None:
    check(name, value, type(value) is str and bool(is_valid(value)), expected)


def _check_items(name: str, values, type_: type, is_valid: Callable[[Any], bool] = lambda item: True) -> None:
    is_right = type(values) is tuple and all(type(item) is type_ and is_valid(item) for item in values)
    check(name, values, is_right, f"a list of valid {type_.__name__}s")


def _checksum(fields: dict) -> str:
    # The checksum of the content, unlike one of the text, does not depend on the order of keys or on spaces.
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
