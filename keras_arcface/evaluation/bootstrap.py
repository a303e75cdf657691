"""How far a figure could be off: confidence intervals by resampling."""

import numpy as np

from keras_arcface.evaluation import roc as roc_module

_SAMPLES_AT_ONCE = 50


def resampled_curves(roc: roc_module.Roc, samples: int, seed: int):
    """Draws genuine and impostor pairs anew, as many as there are, with replacement, each kind by itself.

    What matters of an impostor score is between which genuine scores it lies. So the numbers between the corners
    are drawn, not the scores: 15 million pairs cost no more than their few genuine ones.

    Args:
        roc: the curve.
        samples: how often to draw.
        seed: of the draws.

    Yields:
        `(far, tar)`, `(drawn, corners)` each, some samples at a time.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, samples, _SAMPLES_AT_ONCE):
        drawn = min(_SAMPLES_AT_ONCE, samples - start)
        curves = []
        for rates, count in ((roc.far, len(roc.impostor)), (roc.tar, len(roc.genuine))):
            shares = np.diff(np.rint(rates * count)) / count
            accepted = np.cumsum(generator.multinomial(count, shares / shares.sum(), size=drawn), axis=1)
            curves.append(np.concatenate([np.zeros((drawn, 1)), accepted / count], axis=1))
        yield tuple(curves)


def roc_intervals(roc: roc_module.Roc, fars, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict:
    """Confidence intervals of what a ROC curve says.

    Args:
        roc: the curve.
        fars: false accept rates at which to give the interval of the true accept rate.
        samples: how often to draw.
        level: share of the draws that an interval holds.
        seed: of the draws.

    Returns:
        `{"auc": (low, high), "eer": (low, high), "tar": {far: (low, high)}}`, NaN for a FAR that the impostor pairs
        cannot show. Pairs are drawn as if they were independent; where they share people, the truth is less sure.
    """
    _check(samples, level)
    aucs, eers, tars = [], [], {far: [] for far in fars}
    for far_curves, tar_curves in resampled_curves(roc, samples, seed):
        aucs.extend(roc_module.area_under(far_curves, tar_curves))
        for far_curve, tar_curve in zip(far_curves, tar_curves, strict=True):
            eers.append(roc_module.equal_error_rate(far_curve, tar_curve))
            for far in fars:
                last = np.searchsorted(far_curve, far, side="right") - 1
                tars[far].append(tar_curve[last] if roc_module.can_show(far, len(roc.impostor)) else np.nan)
    return {
        "auc": _interval(aucs, level),
        "eer": _interval(eers, level),
        "tar": {far: _interval(values, level) for far, values in tars.items()},
    }


def share_interval(right, same, samples: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Confidence interval of the share of pairs that were decided rightly, each kind drawn by itself."""
    _check(samples, level)
    generator = np.random.default_rng(seed)
    rights = np.zeros(samples)
    for kind in (same, ~same):
        rights += generator.binomial(np.sum(kind), np.mean(right[kind]), size=samples)
    return _interval(rights / len(right), level)


def _check(samples, level):
    if samples < 1 or not 0 < level < 1:
        raise ValueError(
            f"Expected: samples of at least 1 and a level in (0, 1). Received: samples={samples}, level={level}"
        )


def _interval(values, level):
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
