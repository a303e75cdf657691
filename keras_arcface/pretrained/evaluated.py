"""Figures and thresholds of evaluation results, for the description of a network."""

import math
from collections.abc import Mapping
from typing import Any

from keras_arcface import evaluation
from keras_arcface._messages import short
from keras_arcface.pretrained.preset import Figure
from keras_arcface.pretrained.preset import Threshold

_FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def describe_results(results: Mapping[str, Any], mirrored: bool) -> tuple[tuple[Figure, ...], tuple[Threshold, ...]]:
    """Returns the figures of each result, and the thresholds of all results together.

    Args:
        results: `VerificationResult` or `TemplateResult` by the name of the evaluation set.
        mirrored: whether the embeddings of mirror images were added.

    Raises:
        ValueError: if a result is of another type.
    """
    for name, result in results.items():
        if not isinstance(result, (evaluation.VerificationResult, evaluation.TemplateResult)):
            raise ValueError(
                "results must map names of evaluation sets to results of `evaluation.verify` or "
                f"`evaluation.verify_templates`. Received: results[{short(name)}]={short(result)}"
            )
    source = "measured with mirror images added" if mirrored else "measured without mirror images"
    figures = [figure for name, result in results.items() for figure in _figures(str(name), result, source)]
    roc = evaluation.Roc.from_rocs(result.roc for result in results.values())
    thresholds = []
    for far in _FARS:
        try:
            point = roc.at_far(far)
        except ValueError:  # too few impostor pairs, also for lower rates
            break
        low, high = map(float, point.far_interval)
        on = f"{', '.join(map(str, results))}, {source}"
        thresholds.append(Threshold(float(point.threshold), float(point.far), (low, high), float(point.tar), on))
    return tuple(figures), tuple(thresholds)


def _figures(name: str, result: Any, source: str) -> list[Figure]:
    """Returns the figures of a result. A `TemplateResult` has no accuracy and no intervals."""
    rows = {"AUC": result.auc, "EER": result.eer}
    rows |= {f"TAR@FAR={far:g}": tar for far, tar in result.tar.items()}
    intervals: dict[str, Any] = {}
    if isinstance(result, evaluation.VerificationResult):
        rows = {"accuracy": result.accuracy, **rows}
        found = result.intervals()
        intervals = {"accuracy": found["accuracy"], "AUC": found["auc"], "EER": found["eer"]}
        intervals |= {f"TAR@FAR={far:g}": interval for far, interval in found["tar"].items()}
    return [
        Figure(name, metric, float(value), _floats(intervals.get(metric)), source)
        for metric, value in rows.items()
        if not math.isnan(value)
    ]


def _floats(interval: Any) -> tuple[float, float] | None:
    return None if interval is None else (float(interval[0]), float(interval[1]))
