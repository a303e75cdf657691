"""Embeddings that a teacher network gives to the images of a dataset, stored in a file for distillation."""

import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface._arguments import check
from keras_arcface._arguments import check_integer
from keras_arcface._files import replacing
from keras_arcface._files import write_atomically
from keras_arcface._json import parse_object
from keras_arcface._messages import short
from keras_arcface._regular_files import open_regular
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.shards import ShardReader

_DTYPE = np.dtype("<f2")  # rounds a cosine by less than 1e-3
_MAX_DIM = 2**16
_MAX_NAME = 10_000
_MAX_FACTS_BYTES = 1 << 20  # more than facts with a name of this length can have
_HEADER_BYTES = 128
_VERSIONS = 2  # an image and its mirror image


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherEmbeddings:
    """Embeddings of a teacher for all images of a dataset directory and for their mirror images.

    `write_teacher_embeddings` computes them, `load_teacher_embeddings` reads them, and `load_dataset(teacher=...)` adds
    those of a batch to its labels. They stay in the file, so that the memory does not limit their number.

    Attributes:
        dataset: path of the dataset directory.
        teacher: the text that names the teacher.
        dim: dimension of the embeddings.
        values: L2-normalized embeddings, `(num_examples, 2, dim)` float16, a view of the file. Images are in the order
            of `load_dataset(training=False)`. Index 0 of the second axis is the image, 1 its mirror image.

    Examples:
        >>> teacher = write_teacher_embeddings("faces", embedder, teacher="my network")
        >>> teacher.values.shape, teacher.values.dtype
        ((8, 2, 8), dtype('float16'))

        The embeddings of the first image and of the mirror image of the second:

        >>> teacher(np.array([0, 1]), np.array([False, True])).shape
        (2, 8)
        >>> teacher.class_centers().shape
        (2, 8)
    """

    dataset: Path
    teacher: str
    dim: int
    values: np.ndarray = dataclasses.field(repr=False)

    def __call__(self, indices: np.ndarray, is_mirrored: np.ndarray) -> np.ndarray:
        """Returns the embeddings of images.

        Args:
            indices: indices of images in the dataset, `(n,)` integers.
            is_mirrored: whether each image is mirrored, `(n,)` bool.

        Returns:
            `(n, dim)` float32.
        """
        return self.values[indices, np.asarray(is_mirrored, np.intp)].astype(np.float32)

    def class_centers(self) -> np.ndarray:
        """Computes the class centers of the teacher, for `layers.set_teacher_centers`.

        The center of a class is the mean of the embeddings of its images and their mirror images.

        Returns:
            `(num_classes, dim)` float32. The center of a class without images is zero.
        """
        info = load_info(self.dataset)
        labels = ShardReader(self.dataset, info, skip_damaged=False).labels
        sums = np.zeros((info.num_classes, self.dim))
        for start in range(0, len(labels), 4096):
            part = slice(start, start + 4096)
            np.add.at(sums, labels[part], self.values[part].sum(axis=1, dtype=np.float64))
        return (sums / np.maximum(1, _VERSIONS * np.bincount(labels, minlength=info.num_classes))[:, None]).astype("f")


def write_teacher_embeddings(
    directory, embed: Callable[[np.ndarray], Any], teacher: str, folder=None, batch_size: int = 64
) -> TeacherEmbeddings:
    """Computes the embeddings of a teacher for all images of a dataset and for their mirror images, and stores them.

    The files are `teacher-*.npy` and `teacher-*.json`, about `4 * dim` bytes per image. Existing files of the same
    dataset and teacher are read instead.

    Args:
        directory: path of a directory that `write_dataset` wrote.
        embed: function from uint8 images `(batch, height, width, 3)`, RGB in 0..255, to embeddings `(batch, dim)`, such
            as a Keras model or the result of `serving.load_embedder`.
        teacher: text that names the teacher, such as the sha256 of its file. Embeddings of another teacher with the
            same text are not recognized as such.
        folder: path of the folder to write to, or None for the directory of the dataset.
        batch_size: number of images per call of `embed`, and again of mirror images.

    Returns:
        The `TeacherEmbeddings` of the dataset.

    Raises:
        FileNotFoundError: if the directory contains no dataset.
        FileExistsError: if another process writes the same file.
        ValueError: if `embed` does not return one embedding per image, or one that is zero or not finite, where the
            message names the image; if `teacher` is empty or has more than 10,000 characters; or if existing files are
            damaged, see `load_teacher_embeddings`.
        OSError: if the files cannot be written.

    Examples:
        >>> teacher = write_teacher_embeddings("faces", embedder, teacher="my network")
        >>> teacher
        TeacherEmbeddings(dataset=...'faces'), teacher='my network', dim=8)
        >>> dataset = load_dataset("faces", batch_size=4, training=True, teacher=teacher)
        >>> images, (labels, teacher_embeddings) = next(iter(dataset))
        >>> teacher_embeddings.shape
        TensorShape([4, 8])
    """
    from keras_arcface.data.reader import load_dataset

    is_name = isinstance(teacher, str) and 0 < len(teacher) <= _MAX_NAME
    check("teacher", teacher, is_name, f"a text of 1 to {_MAX_NAME} characters")
    check_integer("batch_size", batch_size, 1)
    info = load_info(directory)
    array_path, facts_path = _paths(directory, folder, teacher)
    if facts_path.exists():
        return load_teacher_embeddings(directory, teacher, folder)
    array_path.parent.mkdir(parents=True, exist_ok=True)
    dim, digest = None, hashlib.sha256()
    bar = tqdm(total=info.num_examples, desc="embedding by the teacher", unit="image", dynamic_ncols=True)
    with bar, replacing(array_path) as file:
        for images, _, names in load_dataset(directory, batch_size, names=True):
            rows = _embed(embed, images.numpy(), names.numpy(), dim)
            if dim is None:
                dim = rows.shape[-1]
                check("the dimension of the teacher's embeddings", dim, dim <= _MAX_DIM, f"at most {_MAX_DIM}")
                digest.update(header := _make_header((info.num_examples, _VERSIONS, dim)))
                file.write(header)
            digest.update(content := rows.astype(_DTYPE).tobytes())
            file.write(content)
            bar.update(len(rows))
    # The facts are written last, so they exist only beside a complete array.
    facts = {"teacher": teacher, "dataset": _fingerprint(info), "num_examples": info.num_examples, "dim": dim}
    facts["sha256"] = digest.hexdigest()
    write_atomically(facts_path, json.dumps(facts, indent=1) + "\n")
    return load_teacher_embeddings(directory, teacher, folder)


def load_teacher_embeddings(directory, teacher: str, folder=None) -> TeacherEmbeddings:
    """Reads what `write_teacher_embeddings` wrote.

    The whole file is read once, to compare its checksum.

    Args:
        directory: path of the directory of the dataset.
        teacher: text that names the teacher.
        folder: path of the folder with the files, or None for the directory of the dataset.

    Returns:
        The `TeacherEmbeddings` of the dataset.

    Raises:
        FileNotFoundError: if the folder has no embeddings of this teacher.
        ValueError: if they belong to another dataset or teacher, or a file is damaged. The message names the file.

    Examples:
        >>> teacher = write_teacher_embeddings("faces", embedder, teacher="my network")
        >>> load_teacher_embeddings("faces", "my network").dim
        8
    """
    info = load_info(directory)
    array_path, facts_path = _paths(directory, folder, teacher)
    if not facts_path.exists():
        raise FileNotFoundError(
            f"{facts_path.parent} must contain embeddings that write_teacher_embeddings wrote with this teacher. "
            f"Received: teacher={short(teacher)}, for which {facts_path.name} does not exist"
        )
    with open_regular(facts_path) as file:
        content = file.read(_MAX_FACTS_BYTES + 1)
    try:
        check("the number of bytes", len(content), len(content) <= _MAX_FACTS_BYTES, f"at most {_MAX_FACTS_BYTES}")
        facts = parse_object(content)
        dim: Any = facts.get("dim")
        check("dim", dim, type(dim) is int and 1 <= dim <= _MAX_DIM, f"an integer in [1, {_MAX_DIM}]")
    except ValueError as error:
        raise ValueError(f"{facts_path} must be an unmodified file. Received: {error}") from error
    expected = {"teacher": teacher, "dataset": _fingerprint(info), "num_examples": info.num_examples}
    for name, value in expected.items():
        if facts.get(name) != value:
            raise ValueError(
                f"{facts_path} must describe the embeddings of the dataset {directory} by the teacher "
                f"{short(teacher)}. To compute them again, remove the file. Expected: {name}={short(value)}. "
                f"Received: {name}={short(facts.get(name))}"
            )
    values = _map_array(array_path, (info.num_examples, _VERSIONS, dim), facts.get("sha256"))
    return TeacherEmbeddings(Path(directory), teacher, dim, values)


def make_lookup(teacher: TeacherEmbeddings, directory) -> Callable:
    """Returns a function from tensors `(indices, is_mirrored)` to embeddings, for the dataset in a directory.

    Raises:
        ValueError: if the embeddings are those of another dataset.
    """
    check("teacher", teacher, isinstance(teacher, TeacherEmbeddings), "a TeacherEmbeddings or None")
    if _fingerprint(load_info(teacher.dataset)) != _fingerprint(load_info(directory)):
        raise ValueError(
            f"teacher must have the embeddings of the dataset {directory}. Received: those of another dataset, "
            f"{teacher.dataset}"
        )

    def look_up(indices, is_mirrored):
        embeddings = tf.numpy_function(teacher, [indices, is_mirrored], tf.float32)
        return tf.ensure_shape(embeddings, (indices.shape[0], teacher.dim))

    return look_up


def _paths(directory, folder, teacher: str) -> tuple[Path, Path]:
    name = f"teacher-{hashlib.sha256(teacher.encode()).hexdigest()[:16]}"
    parent = Path(directory if folder is None else folder)
    return parent / f"{name}.npy", parent / f"{name}.json"


def _fingerprint(info: DatasetInfo) -> str:
    """Returns the sha256 of the checksums of all shards, which changes with the images, labels and their order."""
    return hashlib.sha256(" ".join(shard.sha256 for shard in info.shards).encode()).hexdigest()


def _embed(embed: Callable, images: np.ndarray, names: np.ndarray, dim: int | None) -> np.ndarray:
    """Returns the normalized embeddings of images and of their mirror images, `(batch, 2, dim)`."""
    versions = [
        np.asarray(embed(version), np.float64) for version in (images, np.ascontiguousarray(images[:, :, ::-1]))
    ]
    for rows in versions:
        if rows.ndim != 2 or len(rows) != len(images) or rows.shape[1] != (dim or rows.shape[1]):
            expected = f"({len(images)}, {dim or 'dim'})"
            raise ValueError(f"embed must return one embedding per image, {expected}. Received: shape {rows.shape}")
    values = np.stack(versions, axis=1)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)).all(axis=(1, 2)))
    if len(wrong):
        raise ValueError(
            "embed must return embeddings that are finite and not zero. Received: another one for the image "
            f"{names[wrong[0]].decode(errors='replace')}"
        )
    return values / lengths


def _make_header(shape: tuple[int, int, int]) -> bytes:
    """Returns the header of an `.npy` file, of a length that does not depend on the shape or the version of NumPy."""
    text = repr({"descr": _DTYPE.str, "fortran_order": False, "shape": shape})
    start = np.lib.format.magic(1, 0)
    length = _HEADER_BYTES - len(start) - 2
    return start + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


def _map_array(path: Path, shape: tuple[int, int, int], sha256: Any) -> np.ndarray:
    expected = _HEADER_BYTES + math.prod(shape) * _DTYPE.itemsize
    with open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
        try:
            check("the number of bytes", num_bytes, num_bytes == expected, f"{expected}")
            check("sha256", digest, digest == sha256, short(sha256))
        except ValueError as error:
            raise ValueError(f"{path} must be an unmodified file. Received: {error}") from error
        return np.memmap(file, _DTYPE, "r", _HEADER_BYTES, shape)
