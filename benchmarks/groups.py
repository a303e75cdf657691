"""Measures how often `by_group` is right about groups whose true error rates are known.

    python benchmarks/groups.py --sets 400
    python benchmarks/groups.py --sets 100 --faces cfp324/train.rec

A set has genuine and impostor pairs of four groups. The number of errors of a group is binomial, which is what scores
at a threshold amount to. Each row of the first table is a situation: true FNMRs and FMRs, and numbers of pairs. Its
columns are the shares of sets whose 95% interval contains the true value, and the share of sets with a p-value below
0.05, which should be 5% without a difference. "scores" draws normal scores and chooses the common threshold on the
same pairs.

`--faces` uses real faces: the embeddings of SFace on the first four images of each person of a dataset, without mirror
images. The people are divided at random into four groups, which do not differ. All pairs within a group are used, so
pairs share people, and are not independent. "people" is given or not.
"""

import argparse
import warnings
from pathlib import Path
from statistics import NormalDist

import numpy as np
from tqdm import tqdm

from keras_arcface import evaluation
from keras_arcface.evaluation.rate_differences import gini_coefficient
from keras_arcface.evaluation.rate_differences import worst_ratio

NAMES = ("a", "b", "c", "d")
EQUAL = (3000, 3000, 3000, 3000)

# Situation: true FNMRs, true FMRs, genuine and impostor pairs of each group.
SITUATIONS = {
    "no difference, RFW's size": ((0.05,) * 4, (0.01,) * 4, EQUAL, EQUAL),
    "no difference, one small group": ((0.05,) * 4, (0.01,) * 4, (3000, 3000, 3000, 300), (3000, 3000, 3000, 300)),
    "no difference, few errors": ((0.01,) * 4, (0.001,) * 4, EQUAL, EQUAL),
    "small difference": ((0.05, 0.05, 0.05, 0.06), (0.01, 0.01, 0.01, 0.013), EQUAL, EQUAL),
    "factor 2": ((0.04, 0.05, 0.06, 0.08), (0.007, 0.009, 0.011, 0.014), EQUAL, EQUAL),
    "factor 5": ((0.02, 0.03, 0.05, 0.1), (0.004, 0.006, 0.01, 0.02), EQUAL, EQUAL),
    "factor 10, few errors": ((0.004, 0.01, 0.02, 0.04), (0.0003, 0.001, 0.002, 0.003), EQUAL, EQUAL),
    "factor 5, one small group": (
        *((0.02, 0.03, 0.05, 0.1), (0.004, 0.006, 0.01, 0.02)),
        *((3000, 3000, 3000, 300), (3000, 3000, 3000, 300)),
    ),
}
COLUMNS = ("FMR", "FNMR", "FMR ratio", "FNMR ratio", "FMR Gini", "FNMR Gini", "GARBE", "FMR p<.05", "FNMR p<.05")


def pairs_of(errors, pairs, is_error, other):
    """Returns scores of pairs, `errors` of which have the score `is_error` and the rest `other`."""
    return np.concatenate([np.repeat([is_error, other], [k, n - k]) for k, n in zip(errors, pairs, strict=True)])


def drawn_errors(rng, fnmrs, fmrs, genuine, impostors):
    """Returns scores, same and groups with binomial numbers of errors at the threshold 0.5."""
    rejected = pairs_of(rng.binomial(genuine, fnmrs), genuine, 0.0, 1.0)
    accepted = pairs_of(rng.binomial(impostors, fmrs), impostors, 1.0, 0.0)
    same = np.repeat([True, False], [sum(genuine), sum(impostors)])
    groups = np.concatenate([np.repeat(NAMES, genuine), np.repeat(NAMES, impostors)])
    return np.concatenate([rejected, accepted]), same, groups


def drawn_scores(rng, fnmrs, fmrs, genuine, impostors):
    """Returns normal scores that have the error rates at the threshold 0."""
    normal = NormalDist()
    means = [[-normal.inv_cdf(rate) for rate in fnmrs], [normal.inv_cdf(rate) for rate in fmrs]]
    same = np.repeat([True, False], [sum(genuine), sum(impostors)])
    groups = np.concatenate([np.repeat(np.arange(4), genuine), np.repeat(np.arange(4), impostors)])
    centers = np.where(same, np.array(means[0])[groups], np.array(means[1])[groups])
    return rng.normal(centers, 1.0), same, np.array(NAMES)[groups], means


def contains(interval, value):
    return interval[0] <= value <= interval[1]


def checks(result, fnmrs, fmrs):
    """Returns for each column whether the result is right, and for the last two whether it reports a difference."""
    rates = list(result.groups.values())
    garbe = result.alpha * gini_coefficient(fmrs) + (1 - result.alpha) * gini_coefficient(fnmrs)
    fmr, fnmr = result.fmr_difference, result.fnmr_difference
    return [
        np.mean([contains(r.fmr_interval, rate) for r, rate in zip(rates, fmrs, strict=True)]),
        np.mean([contains(r.fnmr_interval, rate) for r, rate in zip(rates, fnmrs, strict=True)]),
        contains(fmr.ratio_interval, worst_ratio(fmrs)),
        contains(fnmr.ratio_interval, worst_ratio(fnmrs)),
        contains(fmr.gini_interval, gini_coefficient(fmrs)),
        contains(fnmr.gini_interval, gini_coefficient(fnmrs)),
        contains(result.garbe_interval, garbe),
        fmr.p_value < 0.05,
        fnmr.p_value < 0.05,
    ]


def measure(situation, sets, by_scores):
    fnmrs, fmrs, genuine, impostors = map(np.array, situation)
    rows, figures = [], []
    for seed in tqdm(range(sets), leave=False):
        rng = np.random.default_rng(seed)
        if by_scores:
            scores, same, groups, (genuine_means, impostor_means) = drawn_scores(rng, *situation)
            result = evaluation.by_group(scores, same, groups, far=float(np.mean(fmrs)), seed=seed)
            normal = NormalDist()
            true_fnmrs = np.array([normal.cdf(result.threshold - mean) for mean in genuine_means])
            true_fmrs = np.array([1 - normal.cdf(result.threshold - mean) for mean in impostor_means])
        else:
            scores, same, groups = drawn_errors(rng, fnmrs, fmrs, genuine, impostors)
            result, true_fnmrs, true_fmrs = (
                evaluation.by_group(scores, same, groups, threshold=0.5, seed=seed),
                fnmrs,
                fmrs,
            )
        rows.append(checks(result, true_fnmrs, true_fmrs))
        difference = result.fmr_difference
        figures.append([difference.ratio, difference.gini, difference.gini_by_chance])
    ratio, gini, by_chance = np.median(figures, axis=0)
    truth = f"{worst_ratio(fmrs):.3g}, {gini_coefficient(fmrs):.3f}"
    return [f"{share:.1%}" for share in np.mean(rows, axis=0)], truth, f"{ratio:.2f}, {gini:.3f}, {by_chance:.3f}"


def divided_people(source_path, sets):
    """Prints how often random groups of people have p-values below 0.05."""
    from keras_arcface import data
    from keras_arcface import pretrained
    from keras_arcface.evaluation.vectors import l2_normalize

    source = data.open_source(source_path)
    of_image = np.asarray(source.labels)
    kept = np.concatenate([np.flatnonzero(of_image == person)[:4] for person in np.unique(of_image)])
    images, labels = [source[row].image for row in kept], of_image[kept]
    embeddings = l2_normalize(evaluation.embed_images(pretrained.load("sface"), images, flip=False), "embeddings")
    cosines = embeddings @ embeddings.T
    first, second = np.triu_indices(len(kept), 1)
    below = {"given": [], "not given": []}
    for seed in tqdm(range(sets), leave=False):
        people = np.random.default_rng(seed).permutation(np.unique(labels))
        group_of_person = dict(zip(people.tolist(), np.arange(len(people)) % 4, strict=True))
        groups = np.array([group_of_person[label] for label in labels.tolist()])
        within = groups[first] == groups[second]
        rows, columns = first[within], second[within]
        same, scores = labels[rows] == labels[columns], cosines[rows, columns]
        pair_people = np.stack([labels[rows], labels[columns]], axis=1)
        for name, given in (("given", pair_people), ("not given", None)):
            result = evaluation.by_group(scores, same, groups[rows], far=0.01, people=given, seed=seed)
            values = [result.fmr_difference.p_value < 0.05, result.fnmr_difference.p_value < 0.05]
            below[name].append([*values, *result.design_effects.values()])
    rates = result.groups["0"]
    print(f"{len(people) // 4} people, {rates.genuine:,} genuine and {rates.impostors:,} impostor pairs of a group\n")
    print("| people | FMR p<.05 | FNMR p<.05 | design effect of the FMR, FNMR |\n|---|---|---|---|")
    for name, values in below.items():
        fmr, fnmr, fmr_effect, fnmr_effect = np.mean(values, axis=0)
        print(f"| {name} | {fmr:.1%} | {fnmr:.1%} | {fmr_effect:.1f}, {fnmr_effect:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400, help="sets of each situation")
    parser.add_argument("--faces", type=Path, metavar="PATH", help="measure real faces instead: a dataset of people")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # groups that are too small
    if arguments.faces:
        divided_people(arguments.faces, arguments.sets)
        return
    print(f"| situation | true FMR ratio, Gini | median ratio, Gini, by chance | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name, situation in SITUATIONS.items():
        for by_scores in (False, True):
            shares, truth, found = measure(situation, arguments.sets, by_scores)
            print(f"| {name}{', scores' if by_scores else ''} | {truth} | {found} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
