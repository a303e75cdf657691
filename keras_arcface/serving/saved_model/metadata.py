"""What an exported embedder says of itself, so that it cannot be taken for another."""

import datetime
import hashlib
import logging
from pathlib import Path

import keras
import numpy as np

import keras_arcface

FORMAT = 1
METADATA_FILE = Path("assets.extra", "metadata.json")  # in the directory of a SavedModel
FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FEWEST_ACCEPTED = 10  # impostor pairs that a threshold should accept: with fewer, its FAR may be off by half and more

_logger = logging.getLogger(__name__)


def image_size_of(embedder: keras.Model) -> tuple[int, int]:
    """`(height, width)` of an embedder's images.

    Raises:
        ValueError: if it is no embedder, or the size is not known.
    """
    inputs, outputs = (getattr(embedder, name, None) for name in ("input_shape", "output_shape"))
    if not isinstance(inputs, tuple) or not isinstance(outputs, tuple):
        raise ValueError(
            "Expected an embedder with one input and one output; of a RecognitionModel, pass model.embedder. "
            f"Received: {embedder!r}"
        )
    if len(inputs) != 4 or None in inputs[1:] or inputs[3] != 3 or len(outputs) != 2:
        raise ValueError(
            "Expected an embedder, (batch, height, width, 3) -> (batch, dim), of known height and width. "
            f"Received: {embedder.name!r}, {inputs} -> {outputs}"
        )
    return inputs[1:3]


def weights_sha256(model: keras.Model) -> str:
    """The sha256 of all weights: their shapes, types and bytes, in the model's order. Names have no part in it."""
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.shape} {array.dtype.name}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def facts(embedder, mirror) -> dict:
    """What is to be known of every export."""
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


def make_metadata(embedder, alignment, mirror, freeze, evaluation, signatures, batch_sizes) -> dict:
    """All that a client or an operator may want to know. See `export_saved_model` for the arguments."""
    return {
        **facts(embedder, mirror),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "alignment": alignment,
        "thresholds": {} if evaluation is None else _thresholds(evaluation),
        "variables": "frozen" if freeze else "kept",
        "computes_in": sorted({layer.compute_dtype for layer in embedder.layers}),
        "signatures": sorted(signatures),
        "warmup_batch_sizes": list(batch_sizes),
    }


def _thresholds(evaluation) -> dict:
    """`{"0.001": {...}}` for every FAR that the evaluation has impostor pairs enough to show."""
    thresholds, not_shown, reasons = {}, [], []
    for far in FARS:
        try:
            point = evaluation.at_far(far)
        except ValueError as error:
            not_shown.append(f"{far:g}")
            reasons.append(error)
            continue
        low, high = point.far_interval
        if point.impostors_accepted < FEWEST_ACCEPTED:
            _logger.warning(
                "The threshold for a FAR of %g is uncertain: %d of %d impostor pairs decide it, and its FAR lies "
                "between %.2g and %.2g (95%% confidence). Expected: %d or more accepted impostors, from more or larger "
                "pair sets",
                *(far, point.impostors_accepted, point.impostors, low, high, FEWEST_ACCEPTED),
            )
        thresholds[f"{far:g}"] = {
            "threshold": float(point.threshold),
            "far": float(point.far),
            "far_interval": [float(low), float(high)],
            "tar": float(point.tar),
            "impostors_accepted": int(point.impostors_accepted),
            "impostors": int(point.impostors),
        }
    if not_shown:
        _logger.warning("The export gets no thresholds for FARs of %s. %s", ", ".join(not_shown), reasons[0])
    return thresholds
