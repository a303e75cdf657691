"""Warm-up requests: a server answers them before it serves a model, and an export must answer them correctly."""

import dataclasses
import json
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from keras_arcface.data import encoded_images
from keras_arcface.serving.embedder_facts import MIN_NORM

# The path at which TensorFlow Serving expects the file in a SavedModel, and the maximum number of records.
WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_REQUESTS = 1000
_NOT_AN_IMAGE = b"no image"
_COARSE_SIZE = 8  # height and width of the random pixels that are enlarged to an image

Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        signature: name of the signature.
        inputs: `{name: uint8 array or list of bytes}`.
    """

    signature: str
    inputs: dict[str, Any]


def make_requests(signatures: Iterable[str], image_size: tuple[int, int], batch_sizes: Iterable[int]) -> list[Request]:
    """Returns one request for every batch size and signature. Repeated calls return the same requests.

    The images are smooth noise. Encoded images alternate between PNG and JPEG. In batches of more than one, the last
    entry is not an image, because the path of undecodable images must be warm, too, and must not fail.
    """
    signatures = list(signatures)
    requests = []
    for size in batch_sizes:
        images, others = (_make_images(seed, size, image_size) for seed in (0, 1))
        inputs: dict[str, dict[str, Any]] = {
            "serving_default": {"images": images},
            "serve_bytes": {"image_bytes": _encode(images)},
            "compare": {"images_a": images, "images_b": others},
            "describe": {"request": [b""] * size},
        }
        requests += [Request(name, inputs[name]) for name in signatures]
    return requests


def expected_answers(
    requests: Iterable[Request], embed: Callable[[np.ndarray], np.ndarray], metadata: Mapping[str, Any]
) -> list[Answer]:
    """Returns the correct answers.

    Args:
        requests: result of `make_requests`.
        embed: uint8 images `(n, height, width, 3)` -> raw embeddings `(n, dim)`, as NumPy arrays.
        metadata: answer of the signature `describe`.

    Raises:
        ValueError: if an embedding is not finite.
    """

    def outputs(images: np.ndarray) -> Answer:
        raw = embed(images)
        norm = np.linalg.norm(raw, axis=1)
        if not np.isfinite(norm).all():
            raise ValueError(
                f"The embeddings of {metadata['name']!r} must be finite, or the export cannot be checked; those of a "
                f"deep network before training may not be. Received: norms {norm}"
            )
        return {"embedding": raw / np.maximum(norm, MIN_NORM)[:, np.newaxis], "norm": norm}

    def answer_to(request: Request) -> Answer:
        inputs = request.inputs
        if request.signature == "serving_default":
            return outputs(inputs["images"])
        if request.signature == "serve_bytes":
            images, valid = _decode(inputs["image_bytes"])
            answer = outputs(images)
            return {"embedding": answer["embedding"] * valid[:, None], "norm": answer["norm"] * valid, "valid": valid}
        if request.signature == "compare":
            first, second = (outputs(inputs[name])["embedding"] for name in ("images_a", "images_b"))
            return {"cosine": np.sum(first * second, axis=1)}
        return {"metadata": [json.dumps(metadata).encode()] * len(inputs["request"])}

    return [answer_to(request) for request in requests]


def write_requests(path: Path, requests: Iterable[Request]) -> None:
    """Writes the TFRecord file of `PredictionLog` that TensorFlow Serving replays when it loads a model."""
    from tensorflow_serving.apis import prediction_log_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.model_spec.signature_name = request.signature
            for name, value in request.inputs.items():
                log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())


def read_requests(path: Path) -> list[Request]:
    """Reads a file of `write_requests`."""
    from tensorflow_serving.apis import prediction_log_pb2

    requests = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        inputs = {name: value.tolist() if value.dtype == object else value for name, value in inputs.items()}
        requests.append(Request(request.model_spec.signature_name, inputs))
    return requests


def _make_images(seed: int, count: int, image_size: tuple[int, int]) -> np.ndarray:
    shape = (count, _COARSE_SIZE, _COARSE_SIZE, 3)
    coarse = np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    smooth = [cv2.resize(image, tuple(image_size[::-1]), interpolation=cv2.INTER_CUBIC) for image in coarse]
    return np.clip(smooth, 0, 255).astype(np.uint8)


def _encode(images: np.ndarray) -> list[bytes]:
    encoders = (tf.io.encode_png, tf.io.encode_jpeg)
    encoded = [encoders[row % 2](image).numpy() for row, image in enumerate(images)]
    return encoded if len(encoded) == 1 else [*encoded[:-1], _NOT_AN_IMAGE]


def _decode(encoded: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images `(n, height, width, 3)`, black where there is no image, and `(n,)` bool, where there is."""
    valid = np.array([image != _NOT_AN_IMAGE for image in encoded])
    images = [encoded_images.decode_jpeg_or_png(image).numpy() for image in encoded if image != _NOT_AN_IMAGE]
    decoded = np.zeros((len(encoded), *images[0].shape), np.uint8)
    decoded[valid] = images
    return decoded, valid
