"""Identification: whose face is it? One to many, closed and open set, and among a million distractors."""

import dataclasses

import numpy as np

from keras_arcface.evaluation import ranking
from keras_arcface.evaluation.representation import represent
from keras_arcface.evaluation.roc import allowed_at
from keras_arcface.evaluation.roc import can_show
from keras_arcface.evaluation.roc import measured
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.vectors import false_accept_rates
from keras_arcface.evaluation.vectors import labels_for
from keras_arcface.evaluation.vectors import unit_rows

_CMC_UP_TO = 100


@dataclasses.dataclass(frozen=True)
class IdentificationResult:
    """What `identify` found.

    Attributes:
        cmc: `(100,)`, the share of mated probes whose mate is among the first k of the gallery, for k = 1 and on.
        dir: for a false accept rate, the detection and identification rate: the share of mated probes whose mate is
            the first of the gallery and above the threshold that this share of the probes without a mate passes.
            NaN where there are fewer than `1 / far` such probes; empty where there are none.
        mated: how many probes have a mate in the gallery.
        nonmated: how many have none.
    """

    cmc: np.ndarray
    dir: dict[float, float]
    mated: int
    nonmated: int

    def __repr__(self) -> str:
        rates = {"rank_1": self.rank(1), "rank_5": self.rank(5), "dir": measured(self.dir)}
        return represent(self, **rates, mated=self.mated, nonmated=self.nonmated)

    def rank(self, k: int) -> float:
        """The share of mated probes whose mate is among the first k."""
        return ranking.at_rank(self.cmc, k)


def identify(
    probes, probe_labels, gallery, gallery_labels, fars=(0.01, 0.1), progress: bool = True
) -> IdentificationResult:
    """Looks for each probe's identity in a gallery, by cosine, as in IJB-B and IJB-C 1:N.

    Probes whose label is not in the gallery make the open set: the threshold of DIR@FAR is the lowest that at most
    that share of them passes. IJB-C publishes the mean over its two galleries: call this for each. A gallery entry
    that scores as high as a mate counts as standing before it.

    Args:
        probes: `(n, dim)` embeddings of images or templates, any norm.
        probe_labels: `(n,)` int, their identities.
        gallery: `(m, dim)`.
        gallery_labels: `(m,)` int.
        fars: the false accept rates at which to give DIR.
        progress: whether to show a progress bar.

    Returns:
        An `IdentificationResult`.

    Raises:
        ValueError: if the shapes do not fit, an embedding is zero or not finite (named by its row), or no probe has a
            mate in the gallery.

    References:
        - [IARPA Janus Benchmark - C](https://ieeexplore.ieee.org/document/8411217)
    """
    probes, gallery = unit_rows(probes, "probes"), unit_rows(gallery, "gallery")
    probe_labels = labels_for(probe_labels, probes, "probe_labels", "probes")
    gallery_labels = labels_for(gallery_labels, gallery, "gallery_labels", "gallery")
    fars = false_accept_rates(fars)
    members = ranking.Members(gallery_labels)
    ranks, mate_scores, highest_without_mate = [], [], []
    for rows, scores in score_blocks(probes, gallery, progress="identification" if progress else None):
        for label, row in zip(probe_labels[rows], scores, strict=True):
            mates = members[label]
            if len(mates):
                ranks.append(ranking.ranks_of_mates(row, mates)[0])
                mate_scores.append(row[mates].max())
            else:
                highest_without_mate.append(row.max())
    if not ranks:
        raise ValueError(
            f"Identification needs probes with a mate in the gallery. Received: {len(probes)} probes, none with a "
            f"label among those of the {len(gallery)} gallery entries"
        )
    ranks, mate_scores = np.array(ranks), np.array(mate_scores)
    impostors = np.sort(highest_without_mate)[::-1]
    found = np.where(ranks == 0, mate_scores, -np.inf)
    return IdentificationResult(
        cmc=ranking.cumulative_match(ranks, _CMC_UP_TO),
        dir={far: _share_above(far, found, impostors, len(impostors)) for far in fars} if len(impostors) else {},
        mated=len(ranks),
        nonmated=len(impostors),
    )


@dataclasses.dataclass(frozen=True)
class DistractorResult:
    """What `identify_among_distractors` found.

    Attributes:
        cmc: `(100,)`, the share of genuine pairs whose mate is among the first k when it stands among the distractors,
            for k = 1 and on.
        tar: for a false accept rate, the largest true accept rate of genuine pairs at any threshold that at most this
            share of all pairs of probe and distractor passes; NaN where there are fewer than `1 / far` such pairs.
        genuine: how many genuine pairs there are, each in both roles.
        impostor: how many pairs of probe and distractor.
    """

    cmc: np.ndarray
    tar: dict[float, float]
    genuine: int
    impostor: int

    def __repr__(self) -> str:
        rates = {"rank_1": self.rank(1), "rank_10": self.rank(10), "tar": measured(self.tar)}
        return represent(self, **rates, genuine=self.genuine, impostor=self.impostor)

    def rank(self, k: int) -> float:
        """The share of genuine pairs whose mate is among the first k."""
        return ranking.at_rank(self.cmc, k)


def identify_among_distractors(
    probes, labels, distractors, fars=(1e-3, 1e-4, 1e-5, 1e-6), progress: bool = True
) -> DistractorResult:
    """MegaFace's challenge 1: each probe looks for one image of its identity hidden among distractors.

    For each ordered pair of two images of one identity, the first is the probe and the second joins the distractors
    alone. A distractor that scores as high as the mate counts as standing before it.

    Args:
        probes: `(n, dim)` embeddings, any norm; FaceScrub's 3,530 images of 80 people in the published protocol.
        labels: `(n,)` int, their identities.
        distractors: `(m, dim)`, of none of these identities; a million in the published protocol.
        fars: the false accept rates at which to give TAR. The highest of them decides how many scores are held.
        progress: whether to show a progress bar.

    Returns:
        A `DistractorResult`.

    Raises:
        ValueError: if the shapes do not fit, an embedding is zero or not finite (named by its row), or no identity
            has two images.

    References:
        - [The MegaFace Benchmark](https://arxiv.org/abs/1512.00596)
    """
    probes, distractors = unit_rows(probes, "probes"), unit_rows(distractors, "distractors")
    labels = labels_for(labels, probes, "labels", "probes")
    fars = false_accept_rates(fars)
    members = ranking.Members(labels)
    mate_scores = []
    for rows, scores in score_blocks(probes, probes):
        for probe, row in zip(range(rows.start, rows.stop), scores, strict=True):
            mates = members[labels[probe]]
            mate_scores.append(np.sort(row[mates[mates != probe]]))
    genuine = np.sort(np.concatenate(mate_scores))
    if not len(genuine):
        raise ValueError(
            f"Identification needs two images of an identity. Received: {len(probes)} probes of as many identities"
        )
    impostors = len(probes) * len(distractors)
    highest = ranking.HighestScores(max((allowed_at(far, impostors) for far in fars), default=0) + 1)
    ranks = []
    for rows, scores in score_blocks(probes, distractors, progress="distractors" if progress else None):
        for mates, row in zip(mate_scores[rows], scores, strict=True):
            # Both want the high scores only: one pass over the row, and what is left is short.
            row = row[np.flatnonzero(row >= min([*mates[:1], highest.floor]))]
            if len(mates):
                ranks.append(ranking.count_at_least(row, mates))
            highest.add(row)
    highest = highest.descending()
    return DistractorResult(
        cmc=ranking.cumulative_match(np.concatenate(ranks), _CMC_UP_TO),
        tar={far: _share_above(far, genuine, highest, impostors) for far in fars},
        genuine=len(genuine),
        impostor=impostors,
    )


def _share_above(far, scores, impostors_descending, impostors):
    """The share of scores above the last impostor that must be rejected; NaN if the impostors cannot show the FAR."""
    if not can_show(far, impostors):
        return float("nan")
    allowed = allowed_at(far, impostors)
    bound = impostors_descending[allowed] if allowed < impostors else -np.inf
    return float(np.mean(scores > bound))
