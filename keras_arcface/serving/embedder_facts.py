"""Facts about an embedder in the metadata of every export, which identify the exported model."""

import hashlib
from typing import Any

import keras
import numpy as np

import keras_arcface

FORMAT = 1  # format version of the facts
MIN_NORM = 1e-12  # lower limit of the norm by which an embedding is divided


def image_size_of(embedder: Any) -> tuple[int, int]:
    """Returns the height and width of the images that an embedder expects.

    Raises:
        ValueError: if the model is not an embedder, or the size is unknown.
    """
    inputs, outputs = (getattr(embedder, name, None) for name in ("input_shape", "output_shape"))
    if not isinstance(inputs, tuple) or not isinstance(outputs, tuple):
        raise ValueError(
            "embedder must be a model with one input and one output; of a RecognitionModel, pass model.embedder. "
            f"Received: embedder={embedder!r}"
        )
    if len(inputs) != 4 or None in inputs[1:] or inputs[3] != 3 or len(outputs) != 2:
        raise ValueError(
            "embedder must map (batch, height, width, 3) to (batch, dim), with known height and width. "
            f"Received: embedder={embedder.name!r}, {inputs} -> {outputs}"
        )
    return inputs[1:3]


def weights_sha256(model: keras.Model) -> str:
    """Returns the SHA-256 hash of the shapes, dtypes and values of all weights, in the order of `model.weights`."""
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.shape} {array.dtype.name}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def embedder_facts(embedder: keras.Model, mirror: bool) -> dict[str, Any]:
    """Returns the facts about an embedder as a dictionary that can be written as JSON.

    Args:
        embedder: exported model.
        mirror: whether the export adds the embedding of the mirror image.
    """
    return {
        "format": FORMAT,
        "package": "keras_arcface",
        "package_version": keras_arcface.__version__,
        "name": embedder.name,
        "image_size": list(image_size_of(embedder)),
        "color": "RGB",
        "pixels": "0..255",
        "embedding_size": embedder.output_shape[-1],
        "mirrored": mirror,
        "weights_sha256": weights_sha256(embedder),
    }
