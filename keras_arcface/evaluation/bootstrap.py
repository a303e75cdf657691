"""Bootstrap confidence intervals."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.evaluation import roc as roc_module

_SAMPLES_PER_CHUNK = 50


def resample_roc(roc: roc_module.Roc, samples: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Resamples genuine and impostor pairs separately, with replacement.

    A ROC curve depends on an impostor score only through the number of genuine scores above it. Therefore, the number
    of pairs between two corners of the curve is drawn instead of each score, and the time does not depend on the number
    of impostor pairs.

    Args:
        roc: ROC curve.
        samples: number of bootstrap samples.
        seed: seed of the random generator.

    Yields:
        `(far, tar)` of a chunk of samples, each of shape `(chunk, corners)`.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, samples, _SAMPLES_PER_CHUNK):
        size = min(_SAMPLES_PER_CHUNK, samples - start)
        curves = []
        for rates, count in ((roc.far, len(roc.impostor)), (roc.tar, len(roc.genuine))):
            shares = np.diff(np.rint(rates * count)) / count
            accepted = np.cumsum(generator.multinomial(count, shares / shares.sum(), size=size), axis=1)
            curves.append(np.concatenate([np.zeros((size, 1)), accepted / count], axis=1))
        yield curves[0], curves[1]


def roc_intervals(
    roc: roc_module.Roc, fars: Iterable[float], samples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict:
    """Returns bootstrap confidence intervals of the metrics of a ROC curve.

    Pairs are resampled as if they were independent. The true intervals are wider if pairs share people.

    Args:
        roc: ROC curve.
        fars: false accept rates for the intervals of the true accept rate.
        samples: number of bootstrap samples.
        level: confidence level, in (0, 1).
        seed: seed of the random generator.

    Returns:
        `{"auc": (low, high), "eer": (low, high), "tar": {far: (low, high)}}`, with NaN for a FAR that
        is too low for the number of impostor pairs.
    """
    _check(samples, level)
    aucs: list[float] = []
    eers: list[float] = []
    tars: dict[float, list[float]] = {far: [] for far in fars}
    for far_curves, tar_curves in resample_roc(roc, samples, seed):
        aucs.extend(roc_module.area_under(far_curves, tar_curves))
        for far_curve, tar_curve in zip(far_curves, tar_curves, strict=True):
            eers.append(roc_module.equal_error_rate(far_curve, tar_curve))
            for far in tars:
                last = np.searchsorted(far_curve, far, side="right") - 1
                tars[far].append(tar_curve[last] if roc_module.has_enough_impostors(far, len(roc.impostor)) else np.nan)
    return {
        "auc": _interval(aucs, level),
        "eer": _interval(eers, level),
        "tar": {far: _interval(values, level) for far, values in tars.items()},
    }


def accuracy_interval(
    correct: np.ndarray, same: np.ndarray, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns the bootstrap confidence interval of an accuracy.

    Args:
        correct: `(n,)` bool, a mask of the correctly decided pairs.
        same: `(n,)` bool, a mask of the genuine pairs. Genuine and impostor pairs are resampled separately.
        samples: number of bootstrap samples.
        level: confidence level, in (0, 1).
        seed: seed of the random generator.

    Returns:
        `(low, high)`.
    """
    _check(samples, level)
    generator = np.random.default_rng(seed)
    totals = np.zeros(samples)
    for kind in (same, ~same):
        totals += generator.binomial(np.sum(kind), np.mean(correct[kind]), size=samples)
    return _interval(totals / len(correct), level)


def interval_of(
    figure: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the bootstrap confidence interval of a figure of pairs that are counted by kind.

    Args:
        figure: function from `(chunk, kinds)` counts to `(chunk,)` figures.
        counts: `(kinds,)` numbers of pairs of each kind.
        samples: number of bootstrap samples.
        level: confidence level, in (0, 1).
        seed: seed of the random generator.

    Returns:
        `(low, high)`.
    """
    _check(samples, level)
    generator = np.random.default_rng(seed)
    sizes = [min(_SAMPLES_PER_CHUNK, samples - start) for start in range(0, samples, _SAMPLES_PER_CHUNK)]
    resampled = (generator.multinomial(counts.sum(), counts / counts.sum(), size=size) for size in sizes)
    return _interval(np.concatenate([figure(chunk) for chunk in resampled]), level)


def _check(samples: int, level: float) -> None:
    check_integer("samples", samples, minimum=1)
    check_number("level", level, lambda level: 0 < level < 1, "in (0, 1)")


def _interval(values: list[float] | np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
