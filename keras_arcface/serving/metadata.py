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

_logger = logging.getLogger(__name__)


def weights_sha256(model: keras.Model) -> str:
    """The sha256 of all weights: their shapes, types and bytes, in the model's order. Names have no part in it."""
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.shape} {array.dtype.name}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def make_metadata(embedder, image_size, template, mirror, freeze, evaluation, signatures, batch_sizes) -> dict:
    """All that a client or an operator may want to know. See `export_saved_model` for the arguments."""
    return {
        "format": FORMAT,
        "package": "keras_arcface",
        "package_version": keras_arcface.__version__,
        "name": embedder.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "image_size": list(image_size),
        "colour": "RGB",
        "pixels": "0..255",
        "embedding_size": embedder.output_shape[-1],
        "mirrored": mirror,
        "alignment": None if template is None else {"template": np.asarray(template, float).tolist()},
        "thresholds": {} if evaluation is None else _thresholds(evaluation),
        "weights_sha256": weights_sha256(embedder),
        "variables": "frozen" if freeze else "kept",
        "computes_in": sorted({layer.compute_dtype for layer in embedder.layers}),
        "signatures": sorted(signatures),
        "warmup_batch_sizes": list(batch_sizes),
    }


def _thresholds(evaluation) -> dict:
    """`{"0.001": {...}}` for every FAR that the evaluation has impostor pairs enough to show."""
    thresholds = {}
    for far in FARS:
        try:
            point = evaluation.at_far(far)
        except ValueError as error:
            _logger.warning("No threshold for a FAR of %g goes into the export: %s", far, error)
            continue
        thresholds[f"{far:g}"] = {
            "threshold": float(point.threshold),
            "far": float(point.far),
            "tar": float(point.tar),
            "impostors": int(point.impostors),
        }
    return thresholds
