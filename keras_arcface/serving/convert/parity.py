"""Comparison of a converted model with the embedder."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_arcface.serving.embedder_facts import image_size_of
from keras_arcface.serving.layer_replacement import in_float32

_BATCH_SIZES = (1, 7)
# The limit for float32 is the maximum difference of an entry of a unit embedding. The limits of other precisions are
# minimum cosines to the embedder's embedding. docs/runtimes.md lists the values of correct exports.
_MAX_DIFFERENCE = 1e-5
_MIN_COSINE = {"float16": 0.999, "bfloat16": 0.99, "int8": 0.9}
_MAX_NORM_ERROR = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05, "int8": 0.2}


class Parity(NamedTuple):
    """Differences between the outputs of a converted model and of the embedder.

    Attributes:
        max_difference: largest absolute difference of an entry of a unit embedding.
        min_cosine: smallest cosine of an embedding to that of the embedder.
        max_norm_error: largest relative difference of a norm.
    """

    max_difference: float
    min_cosine: float
    max_norm_error: float

    def __str__(self) -> str:
        return (
            f"a maximum difference of {self.max_difference:.2g}, a minimum cosine of {self.min_cosine:.6f}, "
            f"a norm error of {self.max_norm_error:.2%}"
        )


def check_parity(
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    embedder: keras.Model,
    path: Path,
    precision: str,
    mirror: bool,
    calibration: np.ndarray | None,
) -> None:
    """Compares the embeddings of a converted model with those of the embedder.

    Check an export in a lower precision also in float32 before it is rounded: the narrow limits of float32 detect
    errors of the conversion that are smaller than rounding errors.

    Args:
        run: function that runs the converted model: images -> `{"embedding": (n, dim), "norm": (n,)}`.
        embedder: model before the conversion.
        path: path of the export, for errors.
        precision: precision of the converted model.
        mirror: whether the export adds the embedding of the mirror image.
        calibration: calibration images of an int8 export, otherwise None.

    Raises:
        ValueError: if the difference exceeds the limit of the precision, or if the embedder's embeddings are zero or
            not finite. The message contains the difference and the limit.
    """
    for count, found in _measure(run, embedder, path, precision, mirror, calibration):
        if precision == "float32":
            is_close = found.max_difference <= _MAX_DIFFERENCE
            expected = f"a difference of at most {_MAX_DIFFERENCE:g}"
        else:
            is_close = found.min_cosine >= _MIN_COSINE[precision]
            expected = f"a cosine of at least {_MIN_COSINE[precision]:g}"
        # The condition is negated because comparisons with NaN are false.
        if not (is_close and found.max_norm_error <= _MAX_NORM_ERROR[precision]):
            raise ValueError(
                f"{path.name}, {precision}, batch of {count}: the embeddings differ from the embedder's. Expected: "
                f"{expected}, and a norm error of at most {_MAX_NORM_ERROR[precision]:.2%}. Received: {found}"
            )


def measure_parity(
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    embedder: keras.Model,
    path: Path,
    precision: str,
    mirror: bool,
    calibration: np.ndarray | None,
) -> Parity:
    """Returns the largest differences that `check_parity` compares with its limits."""
    found = [parity for _, parity in _measure(run, embedder, path, precision, mirror, calibration)]
    differences, cosines, norm_errors = zip(*found, strict=True)
    return Parity(max(differences), min(cosines), max(norm_errors))


def _measure(
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    embedder: keras.Model,
    path: Path,
    precision: str,
    mirror: bool,
    calibration: np.ndarray | None,
) -> Iterator[tuple[int, Parity]]:
    """Yields the size and the differences of each batch."""
    embedder = in_float32(embedder)
    for count in _BATCH_SIZES:
        if precision == "int8" and calibration is not None:
            images = calibration[:count]
        else:
            images = _test_images(count, image_size_of(embedder))
        raw = embedder.predict_on_batch(images)
        if mirror:
            raw = raw + embedder.predict_on_batch(images[:, :, ::-1])
        norm = np.linalg.norm(raw, axis=1)
        if not (np.isfinite(norm) & (norm > 0)).all():
            raise ValueError(
                f"The embeddings of {embedder.name!r} must be finite and not zero to check the export. They may not be "
                f"if a deep network is not trained. Received: norms {norm}"
            )
        yield count, _compare(run(images), raw / norm[:, None], norm, f"{path.name}, {precision}, batch of {count}")


def _compare(outputs: Mapping[str, np.ndarray], embedding: np.ndarray, norm: np.ndarray, where: str) -> Parity:
    shapes = {name: np.shape(value) for name, value in outputs.items()}
    if shapes != {"embedding": embedding.shape, "norm": norm.shape}:
        raise ValueError(
            f"{where}: the outputs must be embedding {embedding.shape} and norm {norm.shape}. Received: {shapes}"
        )
    return Parity(
        float(np.abs(outputs["embedding"] - embedding).max()),
        float(np.sum(outputs["embedding"] * embedding, axis=1).min()),
        float(np.abs(outputs["norm"] / norm - 1).max()),
    )


def _test_images(count: int, image_size: tuple[int, int]) -> np.ndarray:
    """Returns `count` different uint8 images of colored patches with noise."""
    generator = np.random.default_rng(count)
    height, width = image_size
    coarse = generator.integers(0, 256, (count, 4, 4, 3))
    patches = coarse[:, np.arange(height) * 4 // height][:, :, np.arange(width) * 4 // width]
    noisy = patches + generator.normal(0, 15, patches.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
