"""`dataset.json`, the description of a dataset directory."""

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
    """The name of a TFRecord file in the directory, and its expected content."""

    file: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The source and the arguments with which a dataset was written. Equal ones give equal bytes.

    Attributes:
        images: the number of images to write.
        labels: the sha256 of the labels and class names.
        fingerprint: the sha256 of the source's `fingerprint()`.
        examples_per_shard, seed, check, min_images: the arguments of `write_dataset`.
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
    """The description of a dataset directory.

    Attributes:
        num_classes: labels are in `[0, num_classes)`.
        num_examples: the number of images.
        image_size: the `(height, width)` of every image.
        shards: the TFRecord files, in order.
        source: a description of the source, for readers.
        alignment: how the faces are aligned: "five_points" as by `align`, "none", or None if it is not recorded.
        class_names: the name of each class, or None if the source has no names.
        source_labels: the label of each class in the source, or None if all labels are unchanged.
        skipped: one message per image that was skipped, with the reason.
        conversion: the source and arguments by which `write_dataset` recognizes the dataset; None if not recorded.
        schema_version: the version of the record format.
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
        directory: the dataset directory.

    Returns:
        The `DatasetInfo`.

    Raises:
        FileNotFoundError: if the directory has no `dataset.json`.
        ValueError: naming the file, if it is damaged or has an unknown schema version.

    >>> info = load_info("faces")
    >>> info.num_examples, info.num_classes, info.image_size
    (8, 2, (32, 32))
    """
    path = Path(directory) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. Expected: a directory that keras_arcface.data.write_dataset wrote. {FILE_NAME} is "
            "written last, so writing did not finish if it is missing"
        )
    try:
        fields = json.loads(path.read_text("utf-8"))
        version = fields["schema_version"]
        if version != schema.VERSION:
            raise ValueError(f"schema version must be {schema.VERSION}. Received: schema_version={version!r}")
        if fields.pop("sha256") != _checksum(fields):
            raise ValueError("the checksum does not match: the file was damaged or edited after it was written")
        return _from_fields(fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used: {type(error).__name__}: {error}") from error


def _from_fields(fields: dict) -> DatasetInfo:
    """Restores the types that JSON does not have."""
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
    # The checksum covers the content, not the text, so that it does not depend on the order of keys or on spaces.
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
