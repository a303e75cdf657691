"""Comparison of a converted model with the embedder."""

from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path

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
        where = f"{path.name}, {precision}, batch of {count}"
        _compare(run(images), raw / norm[:, None], norm, where, precision)


def _compare(
    outputs: Mapping[str, np.ndarray], embedding: np.ndarray, norm: np.ndarray, where: str, precision: str
) -> None:
    shapes = {name: np.shape(value) for name, value in outputs.items()}
    if shapes != {"embedding": embedding.shape, "norm": norm.shape}:
        raise ValueError(
            f"{where}: the outputs must be embedding {embedding.shape} and norm {norm.shape}. Received: {shapes}"
        )
    difference = np.abs(outputs["embedding"] - embedding).max()
    cosine = np.sum(outputs["embedding"] * embedding, axis=1).min()
    norm_error = np.abs(outputs["norm"] / norm - 1).max()
    if precision == "float32":
        is_close, expected = difference <= _MAX_DIFFERENCE, f"a difference of at most {_MAX_DIFFERENCE:g}"
    else:
        is_close, expected = cosine >= _MIN_COSINE[precision], f"a cosine of at least {_MIN_COSINE[precision]:g}"
    # The condition is negated because comparisons with NaN are false.
    if not (is_close and norm_error <= _MAX_NORM_ERROR[precision]):
        raise ValueError(
            f"{where}: the embeddings differ from the embedder's. Expected: {expected}, and a norm error of at most "
            f"{_MAX_NORM_ERROR[precision]:.2%}. Received: a maximum difference of {difference:.2g}, a minimum "
            f"cosine of {cosine:.6f}, a norm error of {norm_error:.2%}"
        )


def _test_images(count: int, image_size: tuple[int, int]) -> np.ndarray:
    """Returns `count` different uint8 images of colored patches with noise."""
    generator = np.random.default_rng(count)
    height, width = image_size
    coarse = generator.integers(0, 256, (count, 4, 4, 3))
    patches = coarse[:, np.arange(height) * 4 // height][:, :, np.arange(width) * 4 // width]
    noisy = patches + generator.normal(0, 15, patches.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
