"""Measures how many people of two sets `evaluation.find_overlap` finds, and its false alarms.

    python benchmarks/overlap.py cfp324/train.rec lfw_dev.bin --names pairsDevTest.txt --cache embeddings.npz

1. The two sets as they are, and the classes within the first set. People who are found at one expected false alarm are
   left out of the rest.
2. Images of some people of the first set are moved to the second set: how many of these people are found, by the mean
   embeddings and, for comparison, by the best pair of images, at the lowest threshold without false alarms.
3. Random halves of the people of each set are compared: the expected number of false alarms beside the real one.

The embedder is SFace without mirror images.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import pretrained
from keras_arcface.evaluation.vectors import l2_normalize


def embed(first, second, cache):
    """Returns the embeddings of both sources, from the cache if it exists."""
    if cache is None or not cache.exists():
        model = pretrained.load("sface")
        rows = [evaluation.embed_images(model, source, flip=False) for source in (first, second)]
        if cache is None:
            return rows
        np.savez(cache, first=rows[0], second=rows[1])
    cached = np.load(cache)
    return cached["first"], cached["second"]


def named_labels(images, names):
    """Returns the label of each image by the names in a list of pairs, which lists the pairs in the same order."""
    if names is None:
        return images.labels
    people = []
    for line in names.read_text().splitlines()[1:]:
        cells = line.split("\t")
        people += [cells[0], cells[0 if len(cells) == 3 else 2]]
    numbers = [int(record.name.split()[1]) for record in images]
    return np.unique(np.array(people)[numbers], return_inverse=True)[1]


def found(overlap, people, offset):
    """Returns the number of planted people that were found, and of other pairs."""
    pairs = set(zip(overlap.first_labels.tolist(), overlap.second_labels.tolist(), strict=True))
    planted = {(person, person + offset) for person in people}
    return len(pairs & planted), len(pairs - planted)


def best_image_scores(first, first_labels, second, second_labels):
    """Returns the people of both sets, and the highest cosine of their images for each pair of people."""
    order, other_order = np.argsort(first_labels, kind="stable"), np.argsort(second_labels, kind="stable")
    ids, starts = np.unique(first_labels[order], return_index=True)
    other_ids, other_starts = np.unique(second_labels[other_order], return_index=True)
    scores = first[order] @ second[other_order].T
    return ids, other_ids, np.maximum.reduceat(np.maximum.reduceat(scores, starts, axis=0), other_starts, axis=1)


def above_impostors(ids, other_ids, scores, people, offset):
    """Returns the number of planted people whose score is above those of all other pairs."""
    planted = np.zeros(scores.shape, bool)
    planted[np.searchsorted(ids, people), np.searchsorted(other_ids, people + offset)] = True
    return int(np.sum(scores[planted] > scores[~planted].max()))


def plant(sets, people, images, rng):
    """Moves images of people from the first to the second set, with labels above those of the second set."""
    first, first_labels, second, second_labels = sets
    offset = int(second_labels.max()) + 1
    moved = np.zeros(len(first), bool)
    for person in people:
        rows = rng.permutation(np.flatnonzero(first_labels == person))
        moved[rows[: len(rows) // 2 if images is None else images]] = True
    return (
        *(first[~moved], first_labels[~moved]),
        *(np.concatenate([second, first[moved]]), np.concatenate([second_labels, first_labels[moved] + offset])),
    ), offset


def halves(labels, rng):
    """Returns the rows of two random halves of the people."""
    people = rng.permutation(np.unique(labels))
    is_first = np.isin(labels, people[: len(people) // 2])
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="dataset: .rec file, directory of TFRecords, folder of images")
    parser.add_argument("second", type=Path, help="pair set, .bin or .npz")
    parser.add_argument("--names", type=Path, help="list of the pairs in the format of LFW, for the people's names")
    parser.add_argument("--cache", type=Path, help=".npz file for the embeddings")
    parser.add_argument("--planted", type=int, default=20, help="people in both sets")
    parser.add_argument("--repetitions", type=int, default=30)
    arguments = parser.parse_args()
    source, images = data.open_source(arguments.first), data.PairImages(data.PairSet.load(arguments.second))
    first_labels, second_labels = source.labels, named_labels(images, arguments.names)
    embeddings = embed(source, images, arguments.cache)
    first, second = l2_normalize(embeddings[0], "first"), l2_normalize(embeddings[1], "second")
    sets = first, first_labels, second, second_labels

    people, others = len(np.unique(first_labels)), len(np.unique(second_labels))
    print(f"{people} and {others} people, {people * others:,} pairs\n")
    print("| expected false alarms | threshold | pairs found |\n|---|---|---|")
    for false_alarms in (1, 10, 100):
        overlap = evaluation.find_overlap(*sets, false_alarms=false_alarms, progress=False)
        print(f"| {false_alarms} | {overlap.threshold:.3f} | {len(overlap)} |", flush=True)
        if false_alarms == 1:
            known = overlap.first_labels
            labels = zip(known.tolist(), overlap.second_labels.tolist(), overlap.scores, strict=True)
            pairs = [f"{label} and {other} ({score:.3f})" for label, other, score in labels]
    alone = evaluation.find_overlap(first, first_labels, progress=False)
    print(f"\nPairs at one expected false alarm: {', '.join(pairs)}")
    print(f"\n{alone.compared:,} pairs within the first set, threshold {alone.threshold:.3f}: {len(alone)} pairs found")
    rest = ~np.isin(first_labels, known)
    first, first_labels = first[rest], first_labels[rest]
    sets = first, first_labels, second, second_labels

    print(f"\n{arguments.planted} planted people, {arguments.repetitions} repetitions\n")
    print("| images moved | test labels | found | false alarms | above all others, by mean | by best image |")
    print("|---|---|---|---|---|---|")
    for images in (None, 3, 1):
        for labeled in (True, False):
            rng, rows = np.random.default_rng(0), []
            for _ in range(arguments.repetitions):
                chosen = np.sort(rng.permutation(np.unique(first_labels))[: arguments.planted])
                (a, a_labels, b, b_labels), offset = plant(sets, chosen, images, rng)
                given = b_labels if labeled else None
                overlap = evaluation.find_overlap(a, a_labels, b, given, progress=False)
                if not labeled:  # of each planted image, its planted person
                    overlap = dataclasses.replace(overlap, second_labels=b_labels[overlap.second_labels])
                counts = found(overlap, chosen.tolist(), offset)
                ids, means = evaluation.pool_templates(a, a_labels)
                other_ids, other_means = evaluation.pool_templates(b, b_labels)
                by_mean = above_impostors(ids, other_ids, means @ other_means.T, chosen, offset)
                by_image = above_impostors(*best_image_scores(a, a_labels, b, b_labels), chosen, offset)
                rows.append((*counts, by_mean, by_image))
            figures = " | ".join(f"{value:.2f}" for value in np.mean(rows, axis=0))
            print(f"| {'half' if images is None else images} | {'yes' if labeled else 'no'} | {figures} |", flush=True)

    print(f"\nfalse alarms between random halves of the people, {arguments.repetitions} repetitions\n")
    print("| set | pairs of people | expected | mean | median | 5% to 95% |\n|---|---|---|---|---|---|")
    for name, embeddings, labels in (("first", first, first_labels), ("second", second, second_labels)):
        for false_alarms in (1, 3, 10, 30):
            rng, counts = np.random.default_rng(0), []
            for _ in range(arguments.repetitions):
                a, b = halves(labels, rng)
                overlap = evaluation.find_overlap(
                    *(embeddings[a], labels[a], embeddings[b], labels[b]), false_alarms=false_alarms, progress=False
                )
                counts.append(len(overlap))
            low, median, high = np.percentile(counts, (5, 50, 95))
            spread = f"{np.mean(counts):.1f} | {median:g} | {low:g} to {high:g}"
            print(f"| {name} | {overlap.compared:,} | {false_alarms} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
