"""Requests that a server answers before it serves, and that an export must answer rightly before it is published."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from keras_arcface.data import encoded_images
from keras_arcface.serving.saved_model.signatures import SMALLEST_NORM

# Where TensorFlow Serving looks for them, in the directory of a SavedModel, and how many records it reads.
WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MOST_RECORDS = 1000
_NO_IMAGE = b"no image"
_COARSE = 8  # pixels that a made-up image is drawn from, each way


@dataclasses.dataclass(frozen=True)
class Request:
    """One request of a signature: `inputs` are `{name: uint8 array, or list of bytes}`."""

    signature: str
    inputs: dict


def make_requests(signatures, image_size, batch_sizes) -> list[Request]:
    """Requests for every signature and batch size, the same each time.

    Images are smooth noise. As bytes they are PNG and JPEG in turn, the last of several is no image at all: that is to
    be warm too, and must not fail.
    """
    requests = []
    for size in batch_sizes:
        images, others = (_images(seed, size, image_size) for seed in (0, 1))
        inputs = {
            "serving_default": {"images": images},
            "serve_bytes": {"image_bytes": _encoded(images)},
            "compare": {"images_a": images, "images_b": others},
            "describe": {"request": [b""] * size},
        }
        requests += [Request(name, inputs[name]) for name in signatures]
    return requests


def expected_answers(requests, embed, metadata) -> list[dict]:
    """What requests must be answered with.

    Args:
        requests: as made by `make_requests`.
        embed: uint8 images `(n, height, width, 3)` -> raw embeddings `(n, dim)`, as numpy arrays.
        metadata: what `describe` gives.

    Raises:
        ValueError: if an embedding is not finite.
    """

    def outputs(images):
        raw = embed(images)
        norm = np.linalg.norm(raw, axis=1)
        if not np.isfinite(norm).all():
            raise ValueError(
                f"{metadata['name']!r} gives embeddings that are not finite, with which nothing can be compared: deep "
                f"networks may before they are trained. Received: norms {norm}"
            )
        return {"embedding": raw / np.maximum(norm, SMALLEST_NORM)[:, np.newaxis], "norm": norm}

    answers = []
    for request in requests:
        inputs = request.inputs
        if request.signature == "serving_default":
            answers.append(outputs(inputs["images"]))
        elif request.signature == "serve_bytes":
            images, valid = _decoded(inputs["image_bytes"])
            answer = outputs(images)
            answers.append({name: value * valid.reshape(-1, *[1] * (value.ndim - 1)) for name, value in answer.items()})
            answers[-1]["valid"] = valid
        elif request.signature == "compare":
            first, second = (outputs(inputs[name])["embedding"] for name in ("images_a", "images_b"))
            answers.append({"cosine": np.sum(first * second, axis=1)})
        else:
            answers.append({"metadata": [json.dumps(metadata).encode()] * len(inputs["request"])})
    return answers


def write_requests(path: Path, requests) -> None:
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
    """Reads what `write_requests` wrote."""
    from tensorflow_serving.apis import prediction_log_pb2

    requests = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        inputs = {name: value.tolist() if value.dtype == object else value for name, value in inputs.items()}
        requests.append(Request(request.model_spec.signature_name, inputs))
    return requests


def _images(seed, count, image_size) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, _COARSE, _COARSE, 3)).astype(np.float32)
    smooth = [cv2.resize(image, tuple(image_size[::-1]), interpolation=cv2.INTER_CUBIC) for image in coarse]
    return np.clip(smooth, 0, 255).astype(np.uint8)


def _encoded(images) -> list[bytes]:
    encoders = (tf.io.encode_png, tf.io.encode_jpeg)
    encoded = [encoders[row % 2](image).numpy() for row, image in enumerate(images)]
    return encoded if len(encoded) == 1 else [*encoded[:-1], _NO_IMAGE]


def _decoded(encoded) -> tuple[np.ndarray, np.ndarray]:
    """The images `(n, height, width, 3)`, black where there is none, and which there are."""
    valid = np.array([image != _NO_IMAGE for image in encoded])
    images = [encoded_images.decode_jpeg_or_png(image).numpy() for image in encoded if image != _NO_IMAGE]
    decoded = np.zeros((len(encoded), *images[0].shape), np.uint8)
    decoded[valid] = images
    return decoded, valid
