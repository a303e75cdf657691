"""Results -> rows of text, and plain numbers for a JSON file."""

import dataclasses
import math
import types
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_arcface.evaluation.identification import DistractorResult
from keras_arcface.evaluation.identification import IdentificationResult
from keras_arcface.evaluation.reidentification import ReidentificationResult
from keras_arcface.evaluation.retrieval import RetrievalResult
from keras_arcface.evaluation.roc import OperatingPoint
from keras_arcface.evaluation.roc import measured
from keras_arcface.evaluation.templates import TemplateResult
from keras_arcface.evaluation.verification import Folds
from keras_arcface.evaluation.verification import VerificationResult


@dataclasses.dataclass
class Table:
    """Rows of text under columns: for a terminal, and for a report. The first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        cells = [list(self.columns), *map(list, self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join(lines)

    __repr__ = __str__


def table_of(results) -> Table:
    """The figures of one result of any protocol, or of several models' results of one protocol.

    Args:
        results: what `verify`, `verify_templates`, `identify`, `identify_among_distractors`, `reidentify` or `retrieve`
            returned; or a mapping, name of a model -> such a result.

    Returns:
        A `Table`, one row for each model.

    Raises:
        TypeError: if it is something else.
        ValueError: if the mapping is empty.

    >>> print(table_of({"ours": result, "theirs": other}))  # doctest: +SKIP
    """
    named = results if isinstance(results, Mapping) else {"": results}
    if not named:
        raise ValueError("table_of expects one result at least. Received: none")
    first, *others = [type(result) for result in named.values()]
    if first not in _TABLES or any(other is not first for other in others):
        raise TypeError(
            "table_of expects results of one protocol, such as verify and retrieve return. Received: "
            + ", ".join(type(result).__name__ for result in named.values())
        )
    return _TABLES[first](named)


def verification_table(results: Mapping[str, VerificationResult], intervals: bool = True) -> Table:
    """The figures of several models on one pair set, a row for each; the FARs that its impostor pairs can show."""
    fars = _measured_fars(results)
    rows = []
    for model, result in results.items():
        accuracy, auc = f"{result.accuracy:.2%} ± {result.accuracy_std:.2%}", f"{result.auc:.4f}"
        if intervals:
            within = result.intervals()
            accuracy += " [{:.2%}, {:.2%}]".format(*within["accuracy"])
            auc += " [{:.4f}, {:.4f}]".format(*within["auc"])
        exact = f"{result.exact.mean:.2%} ± {result.exact.std:.2%}"
        tars = [f"{result.tar[far]:.2%}" for far in fars]
        rows.append([model, accuracy, exact, auc, f"{result.eer:.2%}", *tars])
    return Table(["", "accuracy", "exact", "AUC", "EER", *(f"TAR@{far:g}" for far in fars)], rows)


def threshold_table(results: Mapping[str, VerificationResult]) -> Table:
    """For each model and false accept rate that its impostor pairs can show, the threshold."""
    rows = []
    for model, result in results.items():
        for point in map(result.at_far, _measured_fars(results)):
            behind = f"{point.impostors_accepted:,} of {point.impostors:,}"
            numbers = (f"{point.threshold:.4f}", f"{point.squared_distance:.4f}", f"{point.tar:.2%}")
            low, high = point.far_interval
            rows.append([model, f"{point.wanted_far:g}", *numbers, behind, f"{low:.2g} to {high:.2g}"])
    columns = ["FAR wanted", "cosine", "squared distance", "TAR", "impostor pairs accepted", "FAR, 95% interval"]
    return Table(["", *columns], rows)


def template_table(results: Mapping[str, TemplateResult]) -> Table:
    """TAR@FAR of several models, in brackets the TAR at the nearest FAR, as published."""
    fars = list(next(iter(results.values())).tar)
    rows = [
        [model, *(f"{_percent(r.tar[far])} ({_percent(r.tar_published[far])})" for far in fars), f"{r.auc:.4f}"]
        for model, r in results.items()
    ]
    return Table(["", *(f"TAR@{far:g}" for far in fars), "AUC"], rows)


def identification_table(results: Mapping[str, IdentificationResult]) -> Table:
    """Ranks, and the detection and identification rate at each false accept rate."""
    return _rank_table(results, "DIR", lambda result: result.dir)


def distractor_table(results: Mapping[str, DistractorResult]) -> Table:
    """Ranks among distractors, and the true accept rate at each false accept rate."""
    return _rank_table(results, "TAR", lambda result: result.tar)


def reidentification_table(results: Mapping[str, ReidentificationResult]) -> Table:
    """Mean average precision, both ways, and ranks."""
    rows = [
        [model, *map(_percent, (r.mean_average_precision, r.mean_average_precision_trapezoid, *map(r.rank, _RANKS)))]
        for model, r in results.items()
    ]
    return Table(["", "mAP", "mAP (trapezoid)", *_RANK_COLUMNS], rows)


def retrieval_table(results: Mapping[str, RetrievalResult]) -> Table:
    """Recall@K, mAP@R and R-precision."""
    ks = list(next(iter(results.values())).recall)
    rows = [
        [model, *map(_percent, [*(r.recall[k] for k in ks), r.map_at_r, r.r_precision])] for model, r in results.items()
    ]
    return Table(["", *(f"Recall@{k}" for k in ks), "mAP@R", "R-precision"], rows)


_RANKS = (1, 5, 10)
_RANK_COLUMNS = [f"rank-{k}" for k in _RANKS]
_TABLES = types.MappingProxyType(
    {
        VerificationResult: verification_table,
        TemplateResult: template_table,
        IdentificationResult: identification_table,
        DistractorResult: distractor_table,
        ReidentificationResult: reidentification_table,
        RetrievalResult: retrieval_table,
    }
)


def _rank_table(results, name, rates_of):
    fars = list(rates_of(next(iter(results.values()))))
    rows = [
        [model, *map(_percent, [*map(r.rank, _RANKS), *(rates_of(r)[far] for far in fars)])]
        for model, r in results.items()
    ]
    return Table(["", *_RANK_COLUMNS, *(f"{name}@{far:g}" for far in fars)], rows)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def _measured_fars(results):
    return list(measured(next(iter(results.values())).tar))


def as_json(result):
    """A result as what JSON knows: NaN becomes null, arrays lists; scores and curves are left out."""
    if isinstance(result, VerificationResult):
        figures = {"accuracy": result.accuracy, "accuracy_std": result.accuracy_std, "threshold": result.threshold}
        folds = {"intervals_95": result.intervals(), "grid": result.grid, "exact": result.exact}
        return as_json({**figures, **_of_curve(result), **folds})
    if isinstance(result, TemplateResult):
        return as_json(_of_curve(result))
    if isinstance(result, Folds):
        rows = {"accuracies": result.accuracies, "thresholds": result.thresholds}
        return as_json({"mean": result.mean, "std": result.std, "threshold": result.threshold, **rows})
    if isinstance(result, OperatingPoint):
        return as_json({**dataclasses.asdict(result), "squared_distance": result.squared_distance})
    if dataclasses.is_dataclass(result):
        return as_json({field.name: getattr(result, field.name) for field in dataclasses.fields(result)})
    if isinstance(result, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): as_json(value) for key, value in result.items()}
    if isinstance(result, np.ndarray | list | tuple):
        return [as_json(value) for value in result]
    if isinstance(result, np.generic):
        return as_json(result.item())
    if isinstance(result, float) and not math.isfinite(result):
        return None
    return result


def _of_curve(result):
    return {
        "genuine_pairs": len(result.roc.genuine),
        "impostor_pairs": len(result.roc.impostor),
        "auc": result.auc,
        "eer": result.eer,
        "tar": result.tar,
        "tar_published": result.tar_published,
        "thresholds": {far: result.at_far(far) for far in measured(result.tar)},
    }
