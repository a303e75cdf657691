"""What exports to ONNX, OpenVINO and LiteRT share: the graph to convert, and the check before a file gets its name."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_arcface.data import encoded_images
from keras_arcface.serving.layer_replacement import copied
from keras_arcface.serving.layer_replacement import layers_of
from keras_arcface.serving.layer_replacement import without_xla
from keras_arcface.serving.saved_model.metadata import facts
from keras_arcface.serving.saved_model.metadata import image_size_of
from keras_arcface.serving.saved_model.signatures import SMALLEST_NORM

NAME = "keras_arcface"  # of the metadata in the files

_BATCHES = (1, 7)
# Of float32 the largest difference of an embedding of length 1; of the others the smallest cosine between an embedding
# and the embedder's. docs/runtimes.md has how far intact exports stay from these.
_LARGEST_DIFFERENCE = 1e-5
_SMALLEST_COSINE = {"float16": 0.999, "bfloat16": 0.99, "int8": 0.9}
_LARGEST_NORM_ERROR = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05, "int8": 0.2}


def prepare(runtime, embedder, path, suffixes, precision, precisions, calibration) -> Path:
    """Refuses what cannot be exported before anything is converted.

    Args:
        runtime: its name, for errors.
        embedder: that which is to be exported.
        path: where the model is to be written.
        suffixes: the model's, then those of files that come with it.
        precision: what was asked for.
        precisions: what there is.
        calibration: uint8 images `(n, height, width, 3)` where the precision is int8.

    Returns:
        The path.

    Raises:
        FileExistsError: if one of the files exists.
        ValueError: if any of these is not as it must be, or Keras does not run on TensorFlow.
    """
    path = Path(path)
    if path.suffix != suffixes[0]:
        raise ValueError(f"{runtime} files end in {suffixes[0]}. Received: {path}")
    for file in map(path.with_suffix, suffixes):
        if file.exists():
            raise FileExistsError(f"{file} exists. Expected: a path where there is nothing yet")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exports to {runtime} start from Keras' TensorFlow backend: save the embedder as .keras and export it "
            f"under KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()!r}"
        )
    if precision not in precisions:
        raise ValueError(
            f"precision for {runtime} must be one of {', '.join(precisions)}. Received: precision={precision!r}"
        )
    image_size = image_size_of(embedder)
    if precision == "int8":
        _check_calibration(calibration, image_size)
    return path


@contextlib.contextmanager
def unfinished(path: Path):
    """Where to write the files of a model; they get their place when the block has ended well, and go otherwise."""
    directory = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory / path.name
        for file in sorted(directory.iterdir(), key=lambda file: file.name == path.name):  # the model last
            file.rename(path.with_name(file.name))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def calibration_images(source, image_size: tuple[int, int], count: int = 256) -> np.ndarray:
    """Images to calibrate int8 on, taken at even distances, so that they are of as many people as can be.

    Args:
        source: a sequence of records `(image, label, name)`, such as `data.TFRecords` or `data.ImageFolder`.
        image_size: `(height, width)` that they must have.
        count: how many to take; all, if there are fewer.

    Returns:
        uint8 `(count, height, width, 3)`, RGB.

    Raises:
        ValueError: if `count` is below 1; or naming the image, if one cannot be decoded or has another size.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1. Received: count={count}")
    decoded = []
    for index in np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int):
        image, _, name = source[int(index)]
        image = encoded_images.to_jpeg_or_png(image, name)
        size = encoded_images.decoded_size(image, name)
        if size != tuple(image_size):
            raise ValueError(
                f"{name} cannot calibrate this embedder. Expected: {image_size[0]} x {image_size[1]} pixels "
                f"(height x width). Received: {size[0]} x {size[1]}"
            )
        decoded.append(encoded_images.decode_jpeg_or_png(image).numpy())
    return np.stack(decoded)


def served_model(embedder: keras.Model, mirror: bool) -> keras.Model:
    """The graph that is converted: `images` uint8 `(n, height, width, 3)` -> `embedding` `(n, dim)`, `norm` `(n,)`.

    Everything is float32, whatever the embedder's dtype policy: what is rounded is the converter's to choose.
    """
    embedder = without_xla(_in_float32(embedder))
    images = keras.Input(embedder.input_shape[1:], dtype="uint8", name="images")
    pixels = ops.cast(images, "float32")
    if mirror:
        pixels = ops.concatenate([pixels, ops.flip(pixels, axis=2)], axis=0)
    raw = embedder(pixels, training=False)
    if mirror:
        raw = ops.sum(ops.reshape(raw, (2, -1, embedder.output_shape[1])), axis=0)
    norm = ops.sqrt(ops.sum(ops.square(raw), axis=-1))
    embedding = raw / ops.expand_dims(ops.maximum(norm, SMALLEST_NORM), -1)
    return keras.Model(images, {"embedding": embedding, "norm": norm}, name=embedder.name)


def metadata(embedder: keras.Model, mirror: bool, precision: str) -> str:
    """JSON of what a user of the file must know, and cannot see in it."""
    return json.dumps({**facts(embedder, mirror), "precision": precision})


def check_parity(run: Callable, embedder: keras.Model, path: Path, precision: str, mirror: bool, calibration) -> None:
    """Compares what an exported model answers with what the embedder does.

    What is to be rounded is checked before it too, as float32, where every fault of the conversion shows.

    Args:
        run: images -> `{"embedding": (n, dim), "norm": (n,)}`, by the runtime.
        embedder: that which was exported.
        path: for the error.
        precision: of the model that runs.
        mirror: as it was exported.
        calibration: for int8, images which it was calibrated on.

    Raises:
        ValueError: with what was found and what may be, if they differ by more; or if the embedder gives nothing that
            could be compared.
    """
    embedder = _in_float32(embedder)
    for count in _BATCHES:
        images = calibration[:count] if precision == "int8" else _pictures(count, image_size_of(embedder))
        raw = embedder.predict_on_batch(images)
        if mirror:
            raw = raw + embedder.predict_on_batch(images[:, :, ::-1])
        norm = np.linalg.norm(raw, axis=1)
        if not (np.isfinite(norm) & (norm > 0)).all():
            raise ValueError(
                f"{embedder.name!r} gives embeddings that are zero or not finite, with which nothing can be compared: "
                f"deep networks do before they are trained. Received: norms {norm}"
            )
        _compare(run(images), raw / norm[:, None], norm, f"{path.name}, {precision}, a batch of {count}", precision)


def _check_calibration(calibration, image_size):
    expected = f"uint8 images (n, {image_size[0]}, {image_size[1]}, 3), RGB, some hundred of those it will see"
    if calibration is None:
        raise ValueError(f"precision='int8' needs calibration: {expected}. Received: calibration=None")
    shape, dtype = getattr(calibration, "shape", None), getattr(calibration, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or shape[1:] != (*image_size, 3) or not shape[0]:
        received = type(calibration).__name__ if shape is None else f"{dtype} {tuple(shape)}"
        raise ValueError(f"calibration must be {expected}. Received: {received}")


def _compare(answer, embedding, norm, where, precision):
    shapes = {name: np.shape(value) for name, value in answer.items()}
    if shapes != {"embedding": embedding.shape, "norm": norm.shape}:
        raise ValueError(f"{where}: expected embedding {embedding.shape} and norm {norm.shape}. Received: {shapes}")
    difference = np.abs(answer["embedding"] - embedding).max()
    cosine = np.sum(answer["embedding"] * embedding, axis=1).min()
    norm_error = np.abs(answer["norm"] / norm - 1).max()
    if precision == "float32":
        close, expected = difference <= _LARGEST_DIFFERENCE, f"a difference of at most {_LARGEST_DIFFERENCE:g}"
    else:
        close, expected = cosine >= _SMALLEST_COSINE[precision], f"a cosine of at least {_SMALLEST_COSINE[precision]:g}"
    # Negated: NaN is not close.
    if not (close and norm_error <= _LARGEST_NORM_ERROR[precision]):
        raise ValueError(
            f"{where}: it does not answer as the embedder does. Expected: {expected}, and norms within "
            f"{_LARGEST_NORM_ERROR[precision]:.2%}. Received: a largest difference of {difference:.2g}, a smallest "
            f"cosine of {cosine:.6f}, norms within {norm_error:.2%}"
        )


def _pictures(count, image_size):
    """Pictures that differ from each other, and in their colors: soft patches, and noise."""
    generator = np.random.default_rng(count)
    height, width = image_size
    coarse = generator.integers(0, 256, (count, 4, 4, 3))
    patches = coarse[:, np.arange(height) * 4 // height][:, :, np.arange(width) * 4 // width]
    noisy = patches + generator.normal(0, 15, patches.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _in_float32(embedder):
    """The embedder, or one with its weights that computes in float32."""
    if all(layer.compute_dtype == "float32" for layer in layers_of(embedder)):
        return embedder
    return copied(embedder, lambda layer: type(layer).from_config({**layer.get_config(), "dtype": "float32"}))
