"""Results -> rows of text, and plain numbers for a JSON file."""

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_arcface.evaluation.roc import OperatingPoint
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
            rows.append([model, f"{point.wanted_far:g}", *numbers, behind])
    return Table(["", "FAR wanted", "cosine", "squared distance", "TAR", "impostor pairs accepted"], rows)


def _measured_fars(results):
    return [far for far, tar in next(iter(results.values())).tar.items() if not math.isnan(tar)]


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
        "thresholds": {far: result.at_far(far) for far, tar in result.tar.items() if not math.isnan(tar)},
    }
