"""The teacher of a training with distillation, by its path or name."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_arcface import data
from keras_arcface import serving
from keras_arcface._regular_files import open_regular
from keras_arcface._replicas import predict_on_batch
from keras_arcface.cli.embedders import is_runtime_model
from keras_arcface.cli.embedders import load_embedder
from keras_arcface.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What a training needs of its teacher.

    Attributes:
        fingerprint: text that identifies the weights of the teacher.
        online: the network, if it embeds the images of each step, otherwise None.
        stored: embeddings of the dataset, if the recipe uses them, otherwise None.
    """

    fingerprint: str
    online: keras.Model | None
    stored: data.TeacherEmbeddings | None


def prepare(
    name: str, recipe: Recipe, directory: Path, folder: Path | None, info: data.DatasetInfo, accept_license: bool
) -> Teacher:
    """Loads a teacher, and computes its embeddings of the dataset, unless they are already stored.

    Args:
        name: path of an embedder, or name of a published network.
        recipe: a `Recipe` that requires a teacher.
        directory: directory of TFRecords.
        folder: folder of the stored embeddings, or None for the directory of TFRecords.
        info: `DatasetInfo` of the directory.
        accept_license: whether to accept a license of the teacher's weights that does not allow commercial use.
    """
    path = Path(name)
    if is_runtime_model(path):
        network, embed, fingerprint = None, serving.load_embedder(path), _hash_files(path)
    else:
        network = load_embedder(name, accept_license)
        embed, fingerprint = _as_function(network), _hash_weights(network)
        size = tuple(network.input_shape[1:3])
        if any(side not in (None, actual) for side, actual in zip(size, info.image_size, strict=True)):
            raise ValueError(
                f"--teacher {name}: expected a network for images of {info.image_size[0]} x {info.image_size[1]} "
                f"(height x width), the size of the training images. Received: one for {size[0]} x {size[1]}"
            )
    is_online = recipe.distillation > 0 and recipe.teacher_images == "augmented"
    if is_online and network is None:
        raise ValueError(
            "--teacher-images augmented requires a teacher that Keras loads, because it is part of the training step. "
            f"Received: --teacher {name}"
        )
    stored = None
    if not is_online or recipe.teacher_centers != "none":
        stored = data.write_teacher_embeddings(directory, embed, fingerprint, folder)
    return Teacher(fingerprint, network if is_online else None, stored)


def _as_function(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: predict_on_batch(network, images)


def _hash_weights(network: keras.Model) -> str:
    digest = hashlib.sha256()
    for variable in network.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return f"weights {digest.hexdigest()}"


def _hash_files(path: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path, path.with_suffix(".bin")]
    for file in files:
        if file.is_file():
            with open_regular(file) as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return f"files {digest.hexdigest()}"
