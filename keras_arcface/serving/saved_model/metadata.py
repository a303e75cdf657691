"""Metadata of a SavedModel, with facts about the embedder and the thresholds of an evaluation."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from keras_arcface._json import parse_object
from keras_arcface._messages import short
from keras_arcface._regular_files import open_regular

if TYPE_CHECKING:
    import keras

METADATA_FILE = Path("assets.extra", "metadata.json")  # in the directory of a SavedModel
FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# Number of accepted impostor pairs below which the false accept rate of a threshold may be wrong by more than half.
MIN_ACCEPTED_IMPOSTORS = 10

_MAX_BYTES = 1 << 20  # an export has about 2 KB of metadata

_logger = logging.getLogger(__name__)


class Evaluation(Protocol):
    """Verification result with operating points, such as `VerificationResult` or `Roc`."""

    def at_far(self, far: float) -> Any:
        """Returns the operating point for a false accept rate.

        Raises:
            ValueError: if the number of impostor pairs is too small for the rate.
        """


def make_metadata(
    embedder: keras.Model,
    alignment: dict[str, Any],
    mirror: bool,
    freeze: bool,
    evaluation: Evaluation | None,
    signatures: Iterable[str],
    batch_sizes: Iterable[int],
) -> dict[str, Any]:
    """Returns the metadata as a dictionary that can be written as JSON.

    Args:
        embedder, mirror, freeze, evaluation: arguments of `export_saved_model`.
        alignment: description of the alignment of the training faces.
        signatures: names of the signatures.
        batch_sizes: batch sizes of the warm-up requests.
    """
    from keras_arcface.serving.embedder_facts import embedder_facts  # late: reading metadata needs no Keras

    return {
        **embedder_facts(embedder, mirror),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "alignment": alignment,
        "thresholds": {} if evaluation is None else _thresholds(evaluation),
        "variables": "frozen" if freeze else "kept",
        "computes_in": sorted({layer.compute_dtype for layer in embedder.layers}),
        "signatures": sorted(signatures),
        "warmup_batch_sizes": list(batch_sizes),
    }


def read_metadata(saved_model: Path) -> dict[str, Any]:
    """Reads the metadata of a SavedModel. `warmup_batch_sizes` and `computes_in` are lists, empty if they are absent.

    Raises:
        FileNotFoundError: if the SavedModel has no metadata.
        ValueError: if the file is damaged or larger than 1 MiB. The message names the file.
    """
    path = saved_model / METADATA_FILE
    with open_regular(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_BYTES} bytes. Received: more")
    try:
        fields = parse_object(content)
    except ValueError as error:
        raise ValueError(f"{path} is not the metadata of an export: {error}") from error
    for name, kind in (("warmup_batch_sizes", int), ("computes_in", str)):
        values = fields.setdefault(name, [])
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            raise ValueError(f"{path} must contain {name} as a list of {kind.__name__}. Received: {short(values)}")
    return fields


def _thresholds(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Returns `{"0.001": {...}}` for each false accept rate, if the evaluation has enough impostor pairs for it."""
    thresholds, missing, reasons = {}, [], []
    for far in FARS:
        try:
            point = evaluation.at_far(far)
        except ValueError as error:
            missing.append(f"{far:g}")
            reasons.append(error)
            continue
        low, high = point.far_interval
        if point.impostors_accepted < MIN_ACCEPTED_IMPOSTORS:
            _logger.warning(
                "The threshold for a FAR of %g is uncertain: it is determined by %d of %d impostor pairs, and its FAR "
                "lies between %.2g and %.2g (95%% confidence). Use more or larger pair sets, with %d or more accepted "
                "impostors",
                *(far, point.impostors_accepted, point.impostors, low, high, MIN_ACCEPTED_IMPOSTORS),
            )
        thresholds[f"{far:g}"] = {
            "threshold": float(point.threshold),
            "far": float(point.far),
            "far_interval": [float(low), float(high)],
            "tar": float(point.tar),
            "impostors_accepted": int(point.impostors_accepted),
            "impostors": int(point.impostors),
        }
    if missing:
        _logger.warning("The export has no thresholds for FARs of %s. %s", ", ".join(missing), reasons[0])
    return thresholds
