"""`dataset.json`: what a dataset directory says of itself, so that nothing has to scan the records."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from keras_arcface.data import schema

FILE_NAME = "dataset.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its name in the directory, and what it must hold."""

    file: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The source and the arguments that a dataset was written with: equal ones give the same bytes.

    Attributes:
        images: number of images that were to be written.
        labels: sha256 of their labels and the names of the classes.
        fingerprint: sha256 of what the source's `fingerprint()` gave, if it has one.
        examples_per_shard, seed, check, min_images: as passed to `write_dataset`.
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
    """Everything to know of a dataset before reading it.

    Attributes:
        num_classes: labels are in `[0, num_classes)`.
        num_examples: number of images.
        image_size: `(height, width)` of every image.
        shards: the files, in order.
        source: where the images came from, for people.
        alignment: how the faces are aligned: "five_points" as `align` does it, "none" for not at all, or None where it
            is not stated.
        class_names: name of each class, or None where the source has none.
        source_labels: the label that each class had in the source, or None where all kept theirs.
        skipped: what was left out when the dataset was written, and why.
        conversion: what it was written from, by which `write_dataset` recognizes it; None if that is not known.
        schema_version: of the records.
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
        """Writes `dataset.json` atomically, with a checksum of its own, and returns its path."""
        path = Path(directory) / FILE_NAME
        fields = dataclasses.asdict(self)
        write_atomically(path, json.dumps({**fields, "sha256": _checksum(fields)}, indent=1, ensure_ascii=False) + "\n")
        return path


def load_info(directory) -> DatasetInfo:
    """Reads the `dataset.json` of a directory that `write_dataset` made.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file, if it is damaged or of a schema version that this package does not know.
    """
    path = Path(directory) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. Expected: a directory made by keras_arcface.data.write_dataset, whose "
            f"{FILE_NAME} is written last: without it, writing did not finish"
        )
    try:
        fields = json.loads(path.read_text("utf-8"))
        version = fields["schema_version"]
        if version != schema.VERSION:
            raise ValueError(f"schema version {version}, this package reads version {schema.VERSION}")
        if fields.pop("sha256") != _checksum(fields):
            raise ValueError("its checksum does not hold: it was damaged, or edited, after it was written")
        optional = {
            name: None if fields[name] is None else tuple(fields[name]) for name in ("class_names", "source_labels")
        }
        conversion = fields.get("conversion")
        return DatasetInfo(
            **{
                **fields,
                **optional,
                "conversion": None if conversion is None else Conversion(**conversion),
                "image_size": tuple(fields["image_size"]),
                "shards": tuple(Shard(**shard) for shard in fields["shards"]),
                "skipped": tuple(fields["skipped"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used: {type(error).__name__}: {error}") from error


def write_atomically(path: Path, text: str) -> None:
    """Writes a file such that it is there whole or not at all, after a loss of power too."""
    unfinished = path.with_name(f"{path.name}.tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes renames in a directory survive a loss of power."""
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _checksum(fields: dict) -> str:
    # Of the content, not of the text: json gives the same content whatever the order and the spaces.
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
