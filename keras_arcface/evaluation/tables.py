"""Conversion of results to text tables and to JSON types."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_arcface.evaluation.clustering import ClusteringResult
from keras_arcface.evaluation.error_discard import ErrorVersusDiscard
from keras_arcface.evaluation.folds import FoldAccuracies
from keras_arcface.evaluation.groups import GroupRates
from keras_arcface.evaluation.groups import GroupResult
from keras_arcface.evaluation.identification import DistractorResult
from keras_arcface.evaluation.identification import IdentificationResult
from keras_arcface.evaluation.reidentification import ReidentificationResult
from keras_arcface.evaluation.retrieval import RetrievalResult
from keras_arcface.evaluation.roc import OperatingPoint
from keras_arcface.evaluation.roc import drop_nan_rates
from keras_arcface.evaluation.templates import TemplateResult
from keras_arcface.evaluation.verification import VerificationResult

_RANKS = (1, 5, 10)
_RANK_COLUMNS = [f"rank-{k}" for k in _RANKS]
_DISCARDED = (0.0, 0.05, 0.1, 0.2, 0.3)  # shares for which the FNMR is shown


@dataclasses.dataclass
class Table:
    """Text table for a terminal or a report. Its text has one line per row, with aligned columns.

    Attributes:
        columns: names of the columns.
        rows: cells of each row, as many as columns. The first cell is the name of the row.

    Examples:
        >>> Table(["", "accuracy", "AUC"], [["ours", "99.8%", "0.9991"], ["pixels", "64.2%", "0.7012"]])
                accuracy     AUC
        ours       99.8%  0.9991
        pixels     64.2%  0.7012
    """

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


def results_table(results) -> Table:
    """Creates a table of one or several results of a protocol.

    Args:
        results: result of `verify`, `verify_templates`, `identify`, `identify_among_distractors`, `reidentify`,
            `retrieve`, `score_clusters`, `by_group` or `error_versus_discard`; or a mapping from the names of models
            (or of quality scores) to results of the same protocol.

    Returns:
        A `Table` with one row per model; for `by_group`, with one row per model and group. Columns of false accept
        rates with too few impostor pairs are left out, or contain `-`.

    Raises:
        KeyError: if the results were computed for different false accept rates (`fars`) or ranks (`ks`).
        TypeError: if there is another object, or the results are of different protocols.
        ValueError: if the mapping is empty, or results of `error_versus_discard` have different `max_discard`.

    Examples:
        >>> probes, gallery = [[1.0, 0.2], [0.6, 0.5], [0.4, 0.5]], np.eye(2)
        >>> ours = identify(probes, [7, 7, 8], gallery, [7, 8], progress=False)
        >>> other = identify(np.roll(probes, 1, axis=1), [7, 7, 8], gallery, [7, 8], progress=False)
        >>> results_table({"ours": ours, "other": other})
                rank-1   rank-5  rank-10
        ours   100.00%  100.00%  100.00%
        other    0.00%  100.00%  100.00%
    """
    named = results if isinstance(results, Mapping) else {"": results}
    if not named:
        raise ValueError("results must contain at least one result. Received: results={}")
    types = [type(result) for result in named.values()]
    if len(set(types)) > 1 or types[0] not in _TABLES:
        raise TypeError(
            "results must be results of one protocol, such as those of verify or retrieve. Received: "
            + ", ".join(found.__name__ for found in types)
        )
    return _TABLES[types[0]](named)


def verification_table(results: Mapping[str, VerificationResult], intervals: bool = True) -> Table:
    """Creates a table of several models on one pair set, without FARs that have too few impostor pairs."""
    fars = _fars_with_results(results)
    rows = []
    for model, result in results.items():
        accuracy, auc = f"{result.accuracy:.2%} ± {result.accuracy_std:.2%}", f"{result.auc:.4f}"
        if intervals:
            bounds = result.intervals()
            accuracy += " [{:.2%}, {:.2%}]".format(*bounds["accuracy"])
            auc += " [{:.4f}, {:.4f}]".format(*bounds["auc"])
        exact = f"{result.exact.mean:.2%} ± {result.exact.std:.2%}"
        tars = [f"{result.tar[far]:.2%}" for far in fars]
        rows.append([model, accuracy, exact, auc, f"{result.eer:.2%}", *tars])
    return Table(["", "accuracy", "exact", "AUC", "EER", *(f"TAR@{far:g}" for far in fars)], rows)


def threshold_table(results: Mapping[str, VerificationResult]) -> Table:
    """Creates a table of the thresholds of each model, without FARs that have too few impostor pairs."""
    rows = []
    for model, result in results.items():
        for point in map(result.at_far, _fars_with_results(results)):
            accepted = f"{point.impostors_accepted:,} of {point.impostors:,}"
            values = (f"{point.threshold:.4f}", f"{point.squared_distance:.4f}", f"{point.tar:.2%}")
            low, high = point.far_interval
            rows.append([model, f"{point.target_far:g}", *values, accepted, f"{low:.2g} to {high:.2g}"])
    columns = ["target FAR", "cosine", "squared distance", "TAR", "impostor pairs accepted", "FAR, 95% interval"]
    return Table(["", *columns], rows)


def template_table(results: Mapping[str, TemplateResult]) -> Table:
    """Creates a table of TAR@FAR, with the published TAR at the nearest FAR in parentheses."""
    fars = list(next(iter(results.values())).tar)
    rows = [
        [model, *(f"{_percent(r.tar[far])} ({_percent(r.tar_published[far])})" for far in fars), f"{r.auc:.4f}"]
        for model, r in results.items()
    ]
    return Table(["", *(f"TAR@{far:g}" for far in fars), "AUC"], rows)


def identification_table(results: Mapping[str, IdentificationResult]) -> Table:
    """Creates a table of rank-k rates, and of the detection and identification rate at each false accept rate."""
    return _rank_table(results, "DIR", {model: result.dir for model, result in results.items()})


def distractor_table(results: Mapping[str, DistractorResult]) -> Table:
    """Creates a table of rank-k rates among distractors, and of the true accept rate at each false accept rate."""
    return _rank_table(results, "TAR", {model: result.tar for model, result in results.items()})


def reidentification_table(results: Mapping[str, ReidentificationResult]) -> Table:
    """Creates a table of both mean average precisions and of rank-k rates."""
    rows = [
        [model, *map(_percent, (r.mean_average_precision, r.mean_average_precision_trapezoid, *map(r.rank, _RANKS)))]
        for model, r in results.items()
    ]
    return Table(["", "mAP", "mAP (trapezoid)", *_RANK_COLUMNS], rows)


def retrieval_table(results: Mapping[str, RetrievalResult]) -> Table:
    """Creates a table of Recall@K, mAP@R and R-precision."""
    ks = list(next(iter(results.values())).recall)
    rows = [
        [model, *map(_percent, [*(r.recall[k] for k in ks), r.map_at_r, r.r_precision])] for model, r in results.items()
    ]
    return Table(["", *(f"Recall@{k}" for k in ks), "mAP@R", "R-precision"], rows)


def clustering_table(results: Mapping[str, ClusteringResult]) -> Table:
    """Creates a table of the number of clusters, pairwise and BCubed figures, and NMI."""
    rows = [
        [
            *(model, f"{r.clusters:,}", f"{r.noise:,}"),
            *map(_percent, (r.pairwise_precision, r.pairwise_recall, r.pairwise_f)),
            *map(_percent, (r.bcubed_precision, r.bcubed_recall, r.bcubed_f)),
            f"{r.nmi:.4f}",
        ]
        for model, r in results.items()
    ]
    figures = [f"{kind} {figure}" for kind in ("pairwise", "BCubed") for figure in ("precision", "recall", "F")]
    return Table(["", "clusters", "noise", *figures, "NMI"], rows)


def group_table(results: Mapping[str, GroupResult]) -> Table:
    """Creates a table of the error rates of each group, and of all pairs, with their intervals."""
    rows = []
    for model, result in results.items():
        for group, rates in [*result.groups.items(), ("all", result.overall)]:
            rows.append([model, group, f"{rates.tar:.2%}", *_group_cells(rates)])
    columns = ["group", "TAR", "FNMR", "false non-matches", "FMR", "false matches"]
    return Table(["", *columns], rows)


def _group_cells(rates: GroupRates) -> list[str]:
    return [
        _share_with_interval(rates.fnmr, rates.fnmr_interval),
        f"{rates.false_non_matches:,} of {rates.genuine:,}",
        _share_with_interval(rates.fmr, rates.fmr_interval),
        f"{rates.false_matches:,} of {rates.impostors:,}",
    ]


def group_difference_table(results: Mapping[str, GroupResult]) -> Table:
    """Creates a table of how much groups differ: worst ratios, Gini coefficients, p-values and GARBE."""
    rows = []
    for model, result in results.items():
        for rate, difference in (("FMR", result.fmr_difference), ("FNMR", result.fnmr_difference)):
            rows.append(
                [
                    *(model, rate, difference.highest, difference.lowest),
                    _with_interval(difference.ratio, difference.ratio_interval),
                    _with_interval(difference.gini, difference.gini_interval),
                    _number(difference.gini_by_chance),
                    f"{difference.p_value:.3f}",
                ]
            )
        garbe = _with_interval(result.garbe, result.garbe_interval)
        rows.append([model, f"GARBE, alpha {result.alpha:g}", *"---", garbe, _number(result.garbe_by_chance), "-"])
    return Table(["", "rate", "highest", "lowest", "ratio", "Gini", "by chance", "p-value"], rows)


def _share_with_interval(value: float, interval: tuple[float, float]) -> str:
    """Returns a rate in percent with three significant digits, because false match rates can be small."""
    low, high = (f"{100 * end:.3g}%" for end in interval)
    return f"{100 * value:.3g}% [{low}, {high}]"


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return "-" if math.isnan(value) else f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def discard_table(results: Mapping[str, ErrorVersusDiscard]) -> Table:
    """Creates a table of the FNMR at several discarded shares, and of the partial areas."""
    limits = sorted({result.max_discard for result in results.values()})
    if len(limits) > 1:
        raise ValueError(f"results must have the same max_discard. Received: max_discard={limits}")
    shares = [share for share in _DISCARDED if share <= limits[0]]
    rows = [
        [
            *(name, f"{r.genuine:,}", *(f"{r.fnmr_at(share):.2%}" for share in shares)),
            *(f"{r.pauc:.2%}", f"{r.best_pauc:.2%}", "-" if math.isnan(r.relative_pauc) else f"{r.relative_pauc:.2f}"),
        ]
        for name, r in results.items()
    ]
    areas = [f"pAUC {limits[0]:.0%}", "lowest", "relative"]
    return Table(["", "genuine", *("FNMR" if share == 0 else f"-{share:.0%}" for share in shares), *areas], rows)


def _rank_table(results: Mapping[str, Any], name: str, rates: Mapping[str, dict[float, float]]) -> Table:
    fars = list(next(iter(rates.values())))
    rows = [
        [model, *map(_percent, [*map(result.rank, _RANKS), *(rates[model][far] for far in fars)])]
        for model, result in results.items()
    ]
    return Table(["", *_RANK_COLUMNS, *(f"{name}@{far:g}" for far in fars)], rows)


_TABLES: dict[type, Callable[[Mapping[str, Any]], Table]] = {
    VerificationResult: verification_table,
    TemplateResult: template_table,
    IdentificationResult: identification_table,
    DistractorResult: distractor_table,
    ReidentificationResult: reidentification_table,
    RetrievalResult: retrieval_table,
    ClusteringResult: clustering_table,
    GroupResult: group_table,
    ErrorVersusDiscard: discard_table,
}


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def _fars_with_results(results: Mapping[str, VerificationResult]) -> list[float]:
    return list(drop_nan_rates(next(iter(results.values())).tar))


def to_json(result: Any) -> Any:
    """Converts a result to types that `json.dump` writes.

    Args:
        result: result of a function of `keras_arcface.evaluation`, or a mapping, list, tuple or array of results and
            numbers.

    Returns:
        Dictionaries, lists, numbers, strings and None. A verification result becomes its figures with their 95%
        bootstrap intervals, its folds and its thresholds, without the scores and curves. A result of
        `error_versus_discard` becomes its areas and the FNMR at some shares. A false accept rate as a key becomes text,
        such as `"0.001"`. NaN and infinities become None. Objects of other types are returned unchanged.

    Examples:
        >>> result = retrieve([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], labels=[0, 0, 1], ks=(1,), progress=False)
        >>> to_json({"test": result})
        {'test': {'recall': {'1': 1.0}, 'map_at_r': 1.0, 'r_precision': 1.0, 'queries': 2, 'skipped': 1}}
    """
    if isinstance(result, VerificationResult):
        accuracies = {"accuracy": result.accuracy, "accuracy_std": result.accuracy_std, "threshold": result.threshold}
        folds = {"intervals_95": result.intervals(), "grid": result.grid, "exact": result.exact}
        return to_json({**accuracies, **_roc_metrics(result), **folds})
    if isinstance(result, TemplateResult):
        return to_json(_roc_metrics(result))
    if isinstance(result, FoldAccuracies):
        arrays = {"accuracies": result.accuracies, "thresholds": result.thresholds}
        return to_json({"mean": result.mean, "std": result.std, "threshold": result.threshold, **arrays})
    if isinstance(result, OperatingPoint):
        return to_json({**dataclasses.asdict(result), "squared_distance": result.squared_distance})
    if isinstance(result, ErrorVersusDiscard):
        rates = {share: result.fnmr_at(share) for share in _DISCARDED if share <= result.max_discard}
        pairs = {"genuine_pairs": result.genuine, "false_non_matches": result.false_non_matches}
        areas = {name: getattr(result, name) for name in ("max_discard", "pauc", "best_pauc", "relative_pauc")}
        return to_json({"far": result.far, "threshold": result.threshold, **pairs, "fnmr": rates, **areas})
    if dataclasses.is_dataclass(result):
        return to_json({field.name: getattr(result, field.name) for field in dataclasses.fields(result)})
    if isinstance(result, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): to_json(value) for key, value in result.items()}
    if isinstance(result, np.ndarray | list | tuple):
        return [to_json(value) for value in result]
    if isinstance(result, np.generic):
        return to_json(result.item())
    if isinstance(result, float) and not math.isfinite(result):
        return None
    return result


def _roc_metrics(result: VerificationResult | TemplateResult) -> dict[str, Any]:
    return {
        "genuine_pairs": len(result.roc.genuine),
        "impostor_pairs": len(result.roc.impostor),
        "auc": result.auc,
        "eer": result.eer,
        "tar": result.tar,
        "tar_published": result.tar_published,
        "thresholds": {far: result.at_far(far) for far in drop_nan_rates(result.tar)},
    }
