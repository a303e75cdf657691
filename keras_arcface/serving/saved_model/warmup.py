"""Warm-up requests of a SavedModel, which a server runs before it serves the model, and their expected outputs."""

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
from keras_arcface.data.encoded_images import first_line
from keras_arcface.serving.embedder_facts import MIN_NORM

# Path in a SavedModel at which TensorFlow Serving expects the requests, and their maximum number.
WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_REQUESTS = 1000
_NOT_AN_IMAGE = b"no image"
_COARSE_SIZE = 8  # height and width of the random images before they are enlarged

Outputs = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """Request to a signature of a SavedModel.

    Attributes:
        signature: name of the signature.
        inputs: `{name: uint8 array or list of bytes}`.
    """

    signature: str
    inputs: dict[str, Any]


def make_requests(signatures: Iterable[str], image_size: tuple[int, int], batch_sizes: Iterable[int]) -> list[Request]:
    """Returns one request for each batch size and signature. The requests are the same in each call.

    The images are smooth noise. Encoded images alternate between PNG and JPEG. In batches of more than one, the last
    entry is not an image, because a server must also be warm for images that it cannot decode.
    """
    signatures = list(signatures)
    requests = []
    for size in batch_sizes:
        images, others = (make_images(seed, size, image_size) for seed in (0, 1))
        inputs: dict[str, dict[str, Any]] = {
            "serving_default": {"images": images},
            "serve_bytes": {"image_bytes": _encode(images)},
            "compare": {"images_a": images, "images_b": others},
            "describe": {"request": [b""] * size},
        }
        requests += [Request(name, inputs[name]) for name in signatures]
    return requests


def make_images(seed: int, count: int, image_size: tuple[int, int]) -> np.ndarray:
    """Returns smooth noise as uint8 images `(count, height, width, 3)`, the same in each call with the same seed."""
    shape = (count, _COARSE_SIZE, _COARSE_SIZE, 3)
    coarse = np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    smooth = [cv2.resize(image, tuple(image_size[::-1]), interpolation=cv2.INTER_CUBIC) for image in coarse]
    return np.clip(smooth, 0, 255).astype(np.uint8)


def expected_outputs(
    requests: Iterable[Request], embed: Callable[[np.ndarray], np.ndarray], metadata: Mapping[str, Any]
) -> list[Outputs]:
    """Returns the outputs that the embedder gives for each request.

    Args:
        requests: requests of `make_requests`.
        embed: function that maps uint8 images `(n, height, width, 3)` to unnormalized embeddings `(n, dim)`.
        metadata: dictionary that the signature `describe` returns as JSON.

    Raises:
        ValueError: if an embedding is not finite.
    """

    def embedding_and_norm(images: np.ndarray) -> Outputs:
        raw = embed(images)
        norm = np.linalg.norm(raw, axis=1)
        if not np.isfinite(norm).all():
            raise ValueError(
                f"The embeddings of {metadata['name']!r} must be finite to check the export. They may not be if a deep "
                f"network is not trained. Received: norms {norm}"
            )
        return {"embedding": raw / np.maximum(norm, MIN_NORM)[:, np.newaxis], "norm": norm}

    def outputs_of(request: Request) -> Outputs:
        inputs = request.inputs
        if request.signature == "serving_default":
            return embedding_and_norm(inputs["images"])
        if request.signature == "serve_bytes":
            images, valid = _decode(inputs["image_bytes"])
            outputs = embedding_and_norm(images)
            return {"embedding": outputs["embedding"] * valid[:, None], "norm": outputs["norm"] * valid, "valid": valid}
        if request.signature == "compare":
            first, second = (embedding_and_norm(inputs[name])["embedding"] for name in ("images_a", "images_b"))
            return {"cosine": np.sum(first * second, axis=1)}
        return {"metadata": [json.dumps(metadata).encode()] * len(inputs["request"])}

    return [outputs_of(request) for request in requests]


def write_requests(path: Path, requests: Iterable[Request]) -> None:
    """Writes the requests as the TFRecord file that TensorFlow Serving replays when it loads a model."""
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
    """Returns the requests in a file that `write_requests` wrote.

    Raises:
        ValueError: if the file is damaged. The message names it.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    requests = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            inputs = {name: value.tolist() if value.dtype == object else value for name, value in inputs.items()}
            requests.append(Request(request.model_spec.signature_name, inputs))
    except tf.errors.DataLossError as error:
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error
    except (DecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return requests


def _encode(images: np.ndarray) -> list[bytes]:
    encoders = (tf.io.encode_png, tf.io.encode_jpeg)
    encoded = [encoders[row % 2](image).numpy() for row, image in enumerate(images)]
    return encoded if len(encoded) == 1 else [*encoded[:-1], _NOT_AN_IMAGE]


def _decode(encoded: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns decoded images `(n, height, width, 3)` and a bool mask `(n,)`. Rows that are not images are black."""
    valid = np.array([image != _NOT_AN_IMAGE for image in encoded])
    images = [encoded_images.decode_jpeg_or_png(image).numpy() for image in encoded if image != _NOT_AN_IMAGE]
    decoded = np.zeros((len(encoded), *images[0].shape), np.uint8)
    decoded[valid] = images
    return decoded, valid
