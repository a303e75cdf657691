"""Description of a dataset directory in its file `dataset.json`."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from keras_arcface._files import write_atomically
from keras_arcface.data import schema

FILE_NAME = "dataset.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """Name of a TFRecord file and description of its content.

    Attributes:
        file: name of the file in the dataset directory.
        num_examples: number of images in the file.
        num_bytes: size of the file.
        sha256: checksum of the file.
    """

    file: str
    num_examples: int
    num_bytes: int
    sha256: str


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
    """

    images: int
    labels: str
    fingerprint: str
    examples_per_shard: int
    seed: int
    check: bool
    min_images: int


@dataclasses.dataclass(frozen=True, repr=False)
class DatasetInfo:
    """Description of a dataset directory.

    Attributes:
        num_classes: number of classes. Labels are in `[0, num_classes)`.
        num_examples: number of images.
        image_size: `(height, width)` of every image.
        shards: descriptions of the TFRecord files, in order.
        source: readable description of the source.
        alignment: alignment of the faces: "five_points" for that of `align`, "none", or None if it is not recorded.
        class_names: name of each class, or None if the source has no names.
        source_labels: label of each class in the source, or None if all labels are unchanged.
        skipped: one message per skipped image, with the reason.
        conversion: source and arguments by which `write_dataset` recognizes the dataset, or None if not recorded.
        schema_version: version of the record format.
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

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"<DatasetInfo: {self.num_examples:,} images of {self.num_classes:,} classes, {height} x {width}, in "
            f"{len(self.shards):,} shards, from {self.source}>"
        )

    def save(self, directory) -> Path:
        """Writes `dataset.json` atomically, with a checksum of its content, and returns its path."""
        path = Path(directory) / FILE_NAME
        fields = dataclasses.asdict(self)
        write_atomically(path, json.dumps({**fields, "sha256": _checksum(fields)}, indent=1, ensure_ascii=False) + "\n")
        return path


def load_info(directory) -> DatasetInfo:
    """Reads the `dataset.json` of a directory that `write_dataset` wrote.

    Args:
        directory: path of the dataset directory.

    Returns:
        The `DatasetInfo` of the directory.

    Raises:
        FileNotFoundError: if the directory has no `dataset.json`.
        ValueError: if the file is modified, damaged, or has an unknown schema version. The message names the file.

    >>> info = load_info("faces")
    >>> info.num_examples, info.num_classes, info.image_size
    (8, 2, (32, 32))
    """
    path = Path(directory) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"directory must be one that keras_arcface.data.write_dataset wrote. {FILE_NAME} is written last, so "
            f"writing did not finish if it is missing. Received: directory={str(directory)!r}, without {FILE_NAME}"
        )
    try:
        fields = json.loads(path.read_text("utf-8"))
        version = fields["schema_version"]
        if version != schema.VERSION:
            raise ValueError(f"expected schema_version={schema.VERSION}. Received: schema_version={version!r}")
        if fields.pop("sha256") != _checksum(fields):
            raise ValueError("expected content that matches its checksum. Received: other content")
        return _from_fields(fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} must be an unmodified file that keras_arcface.data.write_dataset wrote. "
            f"Received: a file that raises {type(error).__name__}: {error}"
        ) from error


def _from_fields(fields: dict) -> DatasetInfo:
    """Builds a `DatasetInfo` from the fields of a JSON file."""
    restored: dict[str, Any] = {
        "image_size": tuple(fields["image_size"]),
        "shards": tuple(Shard(**shard) for shard in fields["shards"]),
        "skipped": tuple(fields["skipped"]),
    }
    for name in ("class_names", "source_labels"):
        restored[name] = None if fields[name] is None else tuple(fields[name])
    if fields.get("conversion") is not None:
        restored["conversion"] = Conversion(**fields["conversion"])
    return DatasetInfo(**{**fields, **restored})


def _checksum(fields: dict) -> str:
    # The checksum of the content, unlike one of the text, does not depend on the order of keys or on spaces.
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
