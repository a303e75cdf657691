"""`dataset.json`: what a dataset directory says of itself, so that nothing has to scan the records."""

import dataclasses
import json
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
class DatasetInfo:
    """Everything to know of a dataset before reading it.

    Attributes:
        num_classes: labels are in `[0, num_classes)`.
        num_examples: number of images.
        image_size: `(height, width)` of every image.
        shards: the files, in order.
        source: where the images came from, for people.
        class_names: name of each class, or None where the source has none.
        schema_version: of the records.
    """

    num_classes: int
    num_examples: int
    image_size: tuple[int, int]
    shards: tuple[Shard, ...]
    source: str
    class_names: tuple[str, ...] | None = None
    schema_version: int = schema.VERSION

    def save(self, directory) -> Path:
        """Writes `dataset.json` atomically and returns its path."""
        path = Path(directory) / FILE_NAME
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")
        unfinished.replace(path)
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
        names = fields.pop("class_names")
        info = DatasetInfo(
            **{
                **fields,
                "image_size": tuple(fields["image_size"]),
                "shards": tuple(Shard(**shard) for shard in fields["shards"]),
                "class_names": None if names is None else tuple(names),
            }
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    return info
