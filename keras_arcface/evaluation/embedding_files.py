"""Parquet files of embeddings, with the names and labels of their images.

The columns are `name`, `label`, `embedding` (L2-normalized, float32 or int8), `scale` (only for int8) and `norm`. An
embedding is `embedding * norm`, or `embedding * scale * norm` for int8.
"""

import dataclasses
import json
import typing
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._choices import EMBEDDING_DTYPES
from keras_arcface._files import is_file_name
from keras_arcface._files import replacing
from keras_arcface._files import write_atomically
from keras_arcface._json import parse_object
from keras_arcface._messages import short
from keras_arcface._optional import optional_import
from keras_arcface._regular_files import open_regular
from keras_arcface.evaluation.vectors import l2_norms

FILE_NAME = "embeddings.json"
VERSION = 1
MAX_DIM = 65_536
_JOB_KEY = b"keras_arcface"
_MAX_BYTES = 1 << 28  # of `embeddings.json`
_LARGEST_INT8 = 127
_ROWS_PER_GROUP = 16_384


@dataclasses.dataclass(frozen=True)
class EmbeddingJob:
    """Images and options that determine the content of a directory of embeddings.

    Attributes:
        source: readable description of the images.
        fingerprint: sha256 that changes if the images change, or "" if changes cannot be detected.
        num_images: number of images of the source.
        embedder_sha256: checksum of the embedder.
        dtype: "float32" or "int8".
        flip: whether the embedding of the mirror image is added.
        images_per_shard: largest number of images in a file.
        batch_size: number of images per call of the embedder, which can change the last bits of an embedding.
        size: height and width to which images are resized, empty if they are not.

    Raises:
        ValueError: if a value has another type or is impossible.
    """

    source: str
    fingerprint: str
    num_images: int
    embedder_sha256: str
    dtype: str
    flip: bool
    images_per_shard: int
    batch_size: int
    size: list[int]

    def __post_init__(self):
        for name, type_ in self.__annotations__.items():
            value = getattr(self, name)
            type_ = typing.get_origin(type_) or type_
            check(name, value, type(value) is type_, f"of type {type_.__name__}")
        for name in ("num_images", "images_per_shard", "batch_size"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        is_size = len(self.size) in (0, 2) and all(type(side) is int and side >= 1 for side in self.size)
        check("size", short(self.size), is_size, "a height and a width, or empty")
        check("dtype", self.dtype, self.dtype in EMBEDDING_DTYPES, f"one of {', '.join(EMBEDDING_DTYPES)}")

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.images_per_shard)

    def rows(self, number: int) -> range:
        """Returns the indices of the images of a shard."""
        start = number * self.images_per_shard
        return range(start, min(start + self.images_per_shard, self.num_images))

    def file_name(self, number: int) -> str:
        return f"{number:05d}-of-{self.num_shards:05d}.parquet"

    def differences(self, other: "EmbeddingJob") -> list[str]:
        """Returns the names of the attributes that differ."""
        return [name for name in self.__annotations__ if getattr(self, name) != getattr(other, name)]


@dataclasses.dataclass(frozen=True)
class EmbeddingShard:
    """A Parquet file of embeddings.

    Attributes:
        file: name of the file in the directory.
        num_images: number of its embeddings.
        num_bytes: size of the file.
        dim: dimension of the embeddings.
        skipped: one message per skipped image, with the reason.
    """

    file: str
    num_images: int
    num_bytes: int
    dim: int
    skipped: tuple[str, ...]

    def __post_init__(self):
        check("file", self.file, type(self.file) is str and is_file_name(self.file), "a file name without a path")
        for name in ("num_images", "num_bytes", "dim"):
            value = getattr(self, name)
            check(name, value, type(value) is int and value >= 1, "an integer of at least 1")
        is_texts = type(self.skipped) is tuple and all(type(message) is str for message in self.skipped)
        check("skipped", self.skipped, is_texts, "a list of texts")


def write_embedding_shard(
    directory: Path,
    job: EmbeddingJob,
    number: int,
    embeddings: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    skipped: list[str],
) -> EmbeddingShard:
    """Writes the embeddings of a shard to a temporary file, flushes it to the disk and renames it.

    Args:
        directory: path of the directory.
        job: description of all shards, which is also stored in the file.
        number: number of the shard.
        embeddings: `(n, dim)` float32, not normalized.
        labels: `(n,)` integers.
        names: n texts.
        skipped: one message per skipped image.
    """
    with optional_import("parquet", "Writing embeddings"):
        import pyarrow
        import pyarrow.parquet
    columns: dict[str, Any] = {
        "name": pyarrow.array(names, pyarrow.string()),
        "label": pyarrow.array(labels, pyarrow.int64()),
    }
    dim = embeddings.shape[1]
    norms = l2_norms(embeddings, f"embeddings of {job.file_name(number)}", names.__getitem__)
    units = (embeddings / norms[:, np.newaxis]).astype(np.float32)
    if job.dtype == "int8":
        scales = np.abs(units).max(axis=1) / np.float32(_LARGEST_INT8)
        units = np.rint(units / scales[:, np.newaxis]).astype(np.int8)
        columns["scale"] = pyarrow.array(scales, pyarrow.float32())
    columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(units.ravel()), dim)
    columns["norm"] = pyarrow.array(norms.astype(np.float32), pyarrow.float32())
    table = pyarrow.table(columns)
    facts = {"version": VERSION, "number": number, "dim": dim, "skipped": skipped, **dataclasses.asdict(job)}
    table = table.replace_schema_metadata({_JOB_KEY: json.dumps(facts)})
    path = directory / job.file_name(number)
    with replacing(path) as file:
        # Embeddings do not compress. But Parquet stores 8-bit integers in 32 bits, except as indices of a dictionary,
        # which have 8 bits. Checksums of the pages reveal damage when they are read.
        pyarrow.parquet.write_table(
            table,
            file,
            row_group_size=_ROWS_PER_GROUP,
            compression="none",
            use_dictionary=["embedding.list.element"] if job.dtype == "int8" else False,
            write_page_checksum=True,
        )
    return EmbeddingShard(path.name, len(names), path.stat().st_size, dim, tuple(skipped))


def read_finished_shard(directory: Path, job: EmbeddingJob, number: int) -> EmbeddingShard | None:
    """Returns the description of a shard that is already written, or None.

    Raises:
        FileExistsError: if the shard belongs to another job.
        ValueError: if the file is damaged.
    """
    path = directory / job.file_name(number)
    if not path.exists():
        return None
    facts = _read_facts(path)
    written = _job_of(facts, path)
    differences = job.differences(written)
    if differences:
        name = differences[0]
        raise FileExistsError(
            f"{path} contains embeddings with another {name}. To start over, remove the directory. "
            f"Expected, to continue: {short(getattr(written, name))}. Received: {short(getattr(job, name))}"
        )
    return EmbeddingShard(path.name, facts["num_rows"], path.stat().st_size, facts["dim"], tuple(facts["skipped"]))


def save_description(
    directory: Path, job: EmbeddingJob, shards: list[EmbeddingShard], class_names: Sequence[str] | None
) -> None:
    """Writes `embeddings.json`, whose existence says that all shards are complete."""
    facts = {
        "version": VERSION,
        **dataclasses.asdict(job),
        "class_names": None if class_names is None else list(class_names),
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    write_atomically(directory / FILE_NAME, json.dumps(facts, indent=1) + "\n")


def load_description(directory: Path) -> tuple[EmbeddingJob, tuple[EmbeddingShard, ...], tuple[str, ...] | None]:
    """Reads `embeddings.json`.

    Returns:
        The job, the shards, which have the same dimension, and the name of each class, or None.

    Raises:
        FileNotFoundError: if the directory has no such file.
        ValueError: if the file is damaged, or a shard has another size.
    """
    path = directory / FILE_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"{directory} must be a directory with {FILE_NAME}, which `keras-arcface embed` writes last. If it was "
            "interrupted, run it again. Received: no such file"
        )
    with open_regular(path) as file:
        content = file.read(_MAX_BYTES + 1)
    try:
        check("the number of bytes", len(content), len(content) <= _MAX_BYTES, f"at most {_MAX_BYTES}")
        facts = parse_object(content)
        entries: Any = facts.get("shards")
        check("shards", entries, type(entries) is list and len(entries) > 0, "a list of shards")
        job = _job_of(facts, path)
        shards = tuple(_shard_of(entry) for entry in entries)
        names = [job.file_name(number) for number in range(job.num_shards)]
        check("shards", short(entries), [shard.file for shard in shards] == names, "all files in order")
        class_names: Any = facts.get("class_names")
        is_known = type(class_names) is list and all(type(name) is str for name in class_names)
        check("class_names", short(class_names), class_names is None or is_known, "a list of texts, or null")
        dims = sorted({shard.dim for shard in shards})
        check("dim", dims, len(dims) == 1 and dims[0] <= MAX_DIM, f"one number, at most {MAX_DIM}")
    except ValueError as error:
        raise ValueError(f"{path} must be an unmodified file. Received: {error}") from error
    for shard in shards:
        size = (directory / shard.file).stat().st_size
        if size != shard.num_bytes:
            raise ValueError(f"{directory / shard.file} must have {shard.num_bytes:,} bytes. Received: {size:,}")
    return job, shards, None if class_names is None else tuple(class_names)


def read_batches(path: Path, dim: int, num_rows: int, columns: list[str], batch_size: int) -> Iterator[dict[str, Any]]:
    """Yields the columns of a Parquet file of embeddings in batches of at most `batch_size` rows.

    Raises:
        ValueError: if the file is damaged or has other columns. The message names it.
    """
    with optional_import("parquet", "Reading embeddings"):
        import pyarrow
        import pyarrow.parquet
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(file.schema_arrow, path, dim)
            received = file.metadata.num_rows
            if received != num_rows:
                raise ValueError(f"{path} must have {num_rows:,} rows. Received: {received:,}")
            has_scale = "scale" in file.schema_arrow.names
            wanted = [*columns, *(["scale"] if has_scale and "embedding" in columns else [])]
            for batch in file.iter_batches(batch_size, columns=wanted):
                yield {name: _to_values(batch.column(name), name, dim, path) for name in wanted}
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} must be an undamaged Parquet file. Received: {error}") from error


def _to_values(column, name: str, dim: int, path: Path):
    if column.null_count:
        raise ValueError(f"{path} must have no missing values. Received: {column.null_count} in the column {name}")
    if name == "name":
        return column.to_pylist()
    if name == "embedding":
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return column.to_numpy(zero_copy_only=False)


def _check_columns(schema: Any, path: Path, dim: int) -> None:
    import pyarrow

    columns = {field.name: field.type for field in schema}
    embedding = columns.pop("embedding", None)
    value = {4: pyarrow.float32(), 5: pyarrow.int8()}.get(len(schema))  # int8 has the column `scale`
    expected = {"name": pyarrow.string(), "label": pyarrow.int64(), "norm": pyarrow.float32()}
    if len(schema) == 5:
        expected["scale"] = pyarrow.float32()
    is_list = embedding is not None and pyarrow.types.is_fixed_size_list(embedding)
    if columns != expected or not is_list or (embedding.list_size, embedding.value_type) != (dim, value):
        raise ValueError(
            f"{path} must have the columns name, label, embedding ({dim} numbers), norm, and scale for int8. "
            f"Received: {short(str(schema))}"
        )


def _read_facts(path: Path) -> dict[str, Any]:
    with optional_import("parquet", "Reading embeddings"):
        import pyarrow
        import pyarrow.parquet
    try:
        metadata = pyarrow.parquet.read_metadata(path)
        facts = parse_object((metadata.metadata or {})[_JOB_KEY])
        skipped = facts.get("skipped")
        check("skipped", skipped, type(skipped) is list and all(type(text) is str for text in skipped), "texts")
        dim = facts.get("dim")
        check("dim", dim, type(dim) is int and 1 <= dim <= MAX_DIM, f"an integer in [1, {MAX_DIM}]")
    except (pyarrow.ArrowException, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must be an undamaged file of embeddings; remove it to write it again. Received: {error}"
        ) from error
    return {**facts, "num_rows": metadata.num_rows}


def _job_of(facts: dict[str, Any], path: Path) -> EmbeddingJob:
    check("version", facts.get("version"), facts.get("version") == VERSION, f"{VERSION}, in {path}")
    missing = [name for name in EmbeddingJob.__annotations__ if name not in facts]
    check("fields", sorted(facts), not missing, f"an object with {', '.join(missing)}")
    return EmbeddingJob(**{name: facts[name] for name in EmbeddingJob.__annotations__})


def _shard_of(entry: Any) -> EmbeddingShard:
    names = set(EmbeddingShard.__annotations__)
    check("shards", short(entry), type(entry) is dict and entry.keys() == names, f"objects with {sorted(names)}")
    skipped = entry["skipped"]
    return EmbeddingShard(**{**entry, "skipped": tuple(skipped) if type(skipped) is list else skipped})
