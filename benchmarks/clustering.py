"""Compares the clusters of `gallery.cluster` with those of DBSCAN on the same embeddings, and chooses the threshold.

    python benchmarks/clustering.py cfp324/train.rec lfw_dev_photos --embeddings embeddings.npz

The threshold is chosen on half of the people of the first dataset. All methods are then compared on the other half, on
the whole dataset, and on the photos of LFW View 1, which are aligned by the landmarks in mtcnn_landmarks.json. DBSCAN,
and the rows "best", get the parameter that is best on the very same set, which needs the labels: an upper bound. The
embeddings are computed once (5 minutes on 2 cores) and kept in --embeddings.
"""

import argparse
import json
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
from sklearn.cluster import DBSCAN

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import gallery
from keras_arcface import pretrained

THRESHOLDS = np.arange(0.36, 0.6, 0.02)
IMAGES_PER_PERSON = (2, 4, 8, 14)
# A cluster with two people costs a user more than a person with two clusters, which one pair of must_link joins.
WANTED_PRECISION = 0.98
DRAWS = 5


def embed(recordio, photos, embedder):
    """Returns a dictionary with embeddings and labels of both datasets."""
    model = pretrained.load(embedder)
    source = data.RecordIO(recordio)
    crops, names = aligned_photos(photos)
    return {
        "first": evaluation.embed_images(model, source, flip=False),
        "first_labels": source.labels,
        "lfw": evaluation.embed_images(model, crops, flip=False),
        "lfw_labels": np.unique(names, return_inverse=True)[1],
    }


def aligned_photos(folder):
    """Returns the aligned faces of the photos of View 1, and the name of the person on each."""
    crops, names = [], []
    with zipfile.ZipFile(folder / "photos.zip") as photos:
        for name, found in json.loads((folder / "mtcnn_landmarks.json").read_text()).items():
            photo = cv2.imdecode(np.frombuffer(photos.read(name), np.uint8), cv2.IMREAD_COLOR)
            crops.append(data.align(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB), found["landmarks"]))
            names.append(name.split("/")[0])
    return np.stack(crops), names


def agglomerative(threshold):
    return lambda embeddings: gallery.cluster(embeddings, threshold=threshold)


def dbscan(eps, min_samples):
    return lambda embeddings: DBSCAN(eps=eps, min_samples=min_samples, metric="cosine").fit_predict(embeddings)


def draw_images(labels, count, seed):
    """Returns the indices of a few images of each person."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate([order[labels[order] == person][:count] for person in np.unique(labels)])


def choose_threshold(embeddings, labels):
    """Prints precision and F on draws with few and many images per person, and returns the chosen threshold."""
    print("| threshold | " + " | ".join(f"{count} images per person" for count in IMAGES_PER_PERSON) + " |")
    print("|---" * (len(IMAGES_PER_PERSON) + 1) + "|")
    chosen = None
    for threshold in map(float, THRESHOLDS):
        cells, precisions = [], []
        for count in IMAGES_PER_PERSON:
            draws = [draw_images(labels, count, seed) for seed in range(DRAWS)]
            results = [
                evaluation.score_clusters(labels[rows], agglomerative(threshold)(embeddings[rows])) for rows in draws
            ]
            precisions.append(np.mean([result.pairwise_precision for result in results]))
            cells.append(f"{precisions[-1]:.2%}, {np.mean([result.pairwise_f for result in results]):.2%}")
        print(f"| {threshold:.2f} | " + " | ".join(cells) + " |")
        if chosen is None and min(precisions) >= WANTED_PRECISION:
            chosen = threshold
    return chosen


def best_of(candidates, embeddings, labels):
    """Returns the name and the method with the best pairwise F."""
    return max(
        candidates, key=lambda item: evaluation.score_clusters(labels, item[1](embeddings)).pairwise_f, default=None
    )


def compare(name, embeddings, labels, threshold):
    methods = [
        (f"agglomerative, {threshold:.2f} (default)", agglomerative(threshold)),
        ("HDBSCAN, 5 images (default)", lambda rows: gallery.cluster(rows, "hdbscan")),
        best_of([(f"agglomerative, {t:.2f} (best)", agglomerative(t)) for t in THRESHOLDS], embeddings, labels),
        best_of(
            [
                (f"HDBSCAN, {size} images (best)", lambda rows, size=size: gallery.cluster(rows, "hdbscan", None, size))
                for size in (2, 3, 4, 5, 6, 8)
            ],
            embeddings,
            labels,
        ),
        best_of(
            [
                (f"DBSCAN, eps {eps:.2f}, {samples} samples (best)", dbscan(eps, samples))
                for eps in np.arange(0.2, 0.8, 0.02)
                for samples in (2, 3, 4, 5)
            ],
            embeddings,
            labels,
        ),
    ]
    print(f"\n{name}: {len(labels):,} images of {len(np.unique(labels)):,} people\n")
    print("| | seconds | clusters | noise | precision | recall | pairwise F | BCubed F | NMI |")
    print("|---" * 9 + "|")
    for method, function in methods:
        start = time.perf_counter()
        clusters = function(embeddings)
        seconds = time.perf_counter() - start
        r = evaluation.score_clusters(labels, clusters)
        rates = (r.pairwise_precision, r.pairwise_recall, r.pairwise_f, r.bcubed_f)
        cells = [
            f"{seconds:.2f}",
            f"{r.clusters:,}",
            f"{r.noise:,}",
            *(f"{rate:.2%}" for rate in rates),
            f"{r.nmi:.4f}",
        ]
        print(f"| {method} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordio", type=Path, help="train.rec of labeled faces")
    parser.add_argument("photos", type=Path, help="folder with photos.zip and mtcnn_landmarks.json of LFW View 1")
    parser.add_argument("--embedder", default="sface", help="as for `pretrained.load`")
    parser.add_argument("--embeddings", type=Path, required=True, help=".npz file that is written if it is absent")
    arguments = parser.parse_args()
    if not arguments.embeddings.exists():
        np.savez(arguments.embeddings, **embed(arguments.recordio, arguments.photos, arguments.embedder))
    arrays = np.load(arguments.embeddings)
    embeddings, labels = arrays["first"], arrays["first_labels"]
    people = np.unique(labels)
    is_chosen = np.isin(labels, np.random.default_rng(0).permutation(people)[: len(people) // 2])
    threshold = choose_threshold(embeddings[is_chosen], labels[is_chosen])
    compare("The half on which the threshold was chosen", embeddings[is_chosen], labels[is_chosen], threshold)
    compare("The other half", embeddings[~is_chosen], labels[~is_chosen], threshold)
    compare("All people", embeddings, labels, threshold)
    compare("LFW View 1", arrays["lfw"], arrays["lfw_labels"], threshold)


if __name__ == "__main__":
    main()
