"""Verification as on LFW: ten folds, the threshold of each chosen on the other nine."""

import dataclasses

import numpy as np

# The published grid, in squared L2 distance between unit vectors: 2 - 2 * cosine.
_DISTANCE_THRESHOLDS = np.arange(0, 4, 0.01)


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """What `verify` found.

    Attributes:
        accuracy: mean of `fold_accuracies`: the share of pairs decided rightly.
        accuracy_std: standard deviation of `fold_accuracies`.
        threshold: mean of `fold_thresholds`: the cosine above which a pair counts as the same person.
        auc: area under the ROC curve over all pairs; ties count half.
        tar: for a false accept rate, the largest true accept rate of any threshold whose own false accept rate is not
            above it, over all pairs. NaN where there are fewer impostor pairs than `1 / far`: not measurable.
        scores: `(n,)` cosines of the pairs, in their order.
        same: `(n,)` bool, as given.
        fold_accuracies: `(folds,)`.
        fold_thresholds: `(folds,)` cosines.
        far_curve, tar_curve: the ROC curve, from (0, 0) to (1, 1).
    """

    accuracy: float
    accuracy_std: float
    threshold: float
    auc: float
    tar: dict[float, float]
    scores: np.ndarray
    same: np.ndarray
    fold_accuracies: np.ndarray
    fold_thresholds: np.ndarray
    far_curve: np.ndarray
    tar_curve: np.ndarray


def verify(embeddings, same, folds: int = 10, fars=(1e-1, 1e-2, 1e-3)) -> VerificationResult:
    """Measures how well embeddings tell whether two images show the same person.

    The published procedure of LFW: pairs stay in order and are cut into folds; the threshold is the first best of
    the grid 0, 0.01 ... 3.99 of squared distances on all other folds, a pair is accepted if its distance is strictly
    below it, and the fold that had no say is judged. No threshold is ever chosen on the pairs that it judges.

    Args:
        embeddings: `(2n, dim)`, any norm; pair i is rows `2 * i` and `2 * i + 1`.
        same: `(n,)` bool, whether a pair shows one person.
        folds: into how many runs of pairs to cut, in order.
        fars: the false accept rates at which to give the true accept rate.

    Returns:
        A `VerificationResult`.

    Raises:
        ValueError: if the shapes do not fit, all pairs are of one kind, there are fewer pairs than folds, or an
            embedding is zero or not finite (named by its row).

    References:
        - [Labeled Faces in the Wild](http://vis-www.cs.umass.edu/lfw/lfw.pdf), section on View 2
    """
    embeddings, same = _checked(embeddings, same, folds)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = unit[0::2], unit[1::2]
    scores = np.sum(first * second, axis=1)
    distances = np.sum(np.square(first - second), axis=1)
    fold_accuracies, fold_thresholds = _judge_folds(distances, same, folds)
    far_curve, tar_curve = _roc(scores, same)
    return VerificationResult(
        accuracy=float(np.mean(fold_accuracies)),
        accuracy_std=float(np.std(fold_accuracies)),
        threshold=float(np.mean(1 - fold_thresholds / 2)),
        auc=float(np.trapezoid(tar_curve, far_curve)),
        tar={far: _tar_at(far, far_curve, tar_curve, impostors=int(np.sum(~same))) for far in fars},
        scores=scores,
        same=same,
        fold_accuracies=fold_accuracies,
        fold_thresholds=1 - fold_thresholds / 2,
        far_curve=far_curve,
        tar_curve=tar_curve,
    )


def _checked(embeddings, same, folds):
    embeddings = np.asarray(embeddings, dtype=np.float64)
    same = np.asarray(same, dtype=bool)
    if embeddings.ndim != 2 or same.ndim != 1 or len(embeddings) != 2 * len(same):
        raise ValueError(
            "verify expects embeddings of shape (2n, dim) for `same` of shape (n,). Received: embeddings of shape "
            f"{embeddings.shape}, same of shape {same.shape}"
        )
    if same.all() or not same.any():
        raise ValueError(
            "verify expects both genuine and impostor pairs. Received: "
            f"{np.sum(same)} genuine and {np.sum(~same)} impostor pairs"
        )
    if not 2 <= folds <= len(same):
        raise ValueError(f"folds must be between 2 and the number of pairs, {len(same)}. Received: folds={folds}")
    norms = np.linalg.norm(embeddings, axis=1)
    unusable = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(unusable):
        raise ValueError(
            f"{len(unusable)} of {len(embeddings)} embeddings are zero or not finite. "
            f"Rows (image i belongs to pair i // 2): {', '.join(map(str, unusable[:10]))}"
            + (" ..." if len(unusable) > 10 else "")
        )
    return embeddings, same


def _judge_folds(distances, same, folds):
    """Accuracy of each fold at the first threshold of the grid that is best on the other folds."""
    right = (distances[:, None] < _DISTANCE_THRESHOLDS) == same[:, None]  # (pairs, thresholds)
    right_per_fold = np.array([np.sum(fold, axis=0) for fold in np.array_split(right, folds)])
    sizes = np.array([len(fold) for fold in np.array_split(same, folds)])
    best = np.argmax(np.sum(right_per_fold, axis=0) - right_per_fold, axis=1)
    return right_per_fold[np.arange(folds), best] / sizes, _DISTANCE_THRESHOLDS[best]


def _roc(scores, same):
    """False and true accept rates at every threshold that makes a difference, equal scores taken together."""
    order = np.argsort(-scores, kind="stable")
    last_of_its_score = np.append(np.diff(scores[order]) != 0, True)
    accepted_genuine = np.cumsum(same[order])[last_of_its_score]
    accepted_impostor = np.cumsum(~same[order])[last_of_its_score]
    far_curve = np.concatenate([[0.0], accepted_impostor / np.sum(~same)])
    tar_curve = np.concatenate([[0.0], accepted_genuine / np.sum(same)])
    return far_curve, tar_curve


def _tar_at(far, far_curve, tar_curve, impostors):
    if far * impostors < 1:
        return float("nan")
    return float(np.max(tar_curve[far_curve <= far]))
