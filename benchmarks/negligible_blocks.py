"""Measures the fraction of gradient blocks that could be skipped because their probabilities are negligible.

    python benchmarks/negligible_blocks.py embedder.keras cfp_tfrecord lfw_dev.bin

If all probabilities of a block are negligible, two matrix products of its gradient can be skipped. This script takes a
batch of embeddings of a trained network, the centers of its classes, images of other people as further classes, and
random centers with the same mean and covariance up to --classes. Blocks are skipped in order of their largest
probability until the gradient of the embeddings or of the centers has a relative error of 1e-4. The table shows the
fraction of skipped blocks. Rows and classes are in their given order, or sorted along the first principal axis, which
groups similar ones.
"""

import argparse
from pathlib import Path

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def probabilities_of(cosines, labels, scale, margin):
    """Returns the softmax probabilities of the logits with margin."""
    rows = np.arange(len(labels))
    logits = scale * cosines
    target = np.arccos(np.clip(cosines[rows, labels], -1, 1))
    logits[rows, labels] = scale * np.cos(np.minimum(target + margin, np.pi))
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def skippable_fraction(probabilities, embeddings, centers, labels, shape, error):
    """Returns the largest fraction of blocks that can be skipped with a relative gradient error of at most `error`."""
    height, width = (min(size, whole) for size, whole in zip(shape, probabilities.shape, strict=True))
    rows, columns = (n // size * size for n, size in zip(probabilities.shape, (height, width), strict=True))
    others = probabilities[:rows, :columns].copy()
    is_target = labels[:rows] < columns
    others[np.flatnonzero(is_target), labels[:rows][is_target]] = np.inf  # never skipped
    largest = others.reshape(rows // height, height, columns // width, width).max(axis=(1, 3))
    order = np.sort(largest.ravel())
    exact = probabilities.copy()
    exact[np.arange(len(labels)), labels] -= 1
    sizes = [np.linalg.norm(exact @ centers), np.linalg.norm(exact.T @ embeddings)]

    def is_small(count):
        threshold = order[count - 1]
        is_skipped = np.repeat(np.repeat(largest <= threshold, height, axis=0), width, axis=1)
        skipped = np.where(is_skipped, probabilities[:rows, :columns], 0)
        missing = [skipped @ centers[:columns], skipped.T @ embeddings[:rows]]
        return all(np.linalg.norm(m) <= error * size for m, size in zip(missing, sizes, strict=True))

    low, high = 0, int(np.isfinite(order).sum())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_small(middle) else (low, middle - 1)
    return low / order.size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder", type=Path)
    parser.add_argument("data", type=Path, help="directory of TFRecords")
    parser.add_argument("pairs", type=Path, help="images of other people, .bin or .npz")
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 30_000])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--scales", type=float, nargs="+", default=[16.0, 64.0])
    parser.add_argument("--margin", type=float, default=0.5)
    parser.add_argument("--error", type=float, default=1e-4)
    arguments = parser.parse_args()
    embedder = serving.load_embedder(arguments.embedder)
    embeddings, labels = evaluation.embed_dataset(embedder, data.load_dataset(arguments.data, batch_size=64))
    pairs = evaluation.embed_pairs(embedder, data.PairSet.load(arguments.pairs))
    embeddings, others = unit(embeddings), unit(pairs)[::2]
    real = unit(np.stack([embeddings[labels == c].mean(axis=0) for c in range(labels.max() + 1)]))
    real = np.concatenate([real, others])
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(labels))[: arguments.batch]
    embeddings, labels = embeddings[chosen], labels[chosen]
    print(f"{arguments.embedder.name}: {len(chosen)} embeddings, {len(real)} real centers, margin {arguments.margin}")
    print(f"fraction of blocks that can be skipped at a relative gradient error of {arguments.error:g}\n")
    shapes = [(1, 1), (1, 64), (8, 64), (64, 64), (64, 1024), (len(chosen), 256), (len(chosen), 1024)]
    print(f"{'classes':>9}{'scale':>7}  order " + "".join(f"{f'{a}x{b}':>10}" for a, b in shapes))
    for count in arguments.classes:
        random_centers = (
            generator.multivariate_normal(
                real.mean(axis=0), np.cov(real.T), max(0, count - len(real)), method="cholesky", check_valid="ignore"
            )
            if count > len(real)
            else real[:0]
        )
        centers = np.concatenate([real[:count], unit(random_centers)]) if len(random_centers) else real[:count]
        axis = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)[2][0]
        for scale in arguments.scales:
            for order in ("given", "sorted"):
                by_class = np.argsort(centers @ axis) if order == "sorted" else np.arange(len(centers))
                by_row = np.argsort(embeddings @ axis) if order == "sorted" else np.arange(len(embeddings))
                positions = np.argsort(by_class)[labels[by_row]]
                batch = embeddings[by_row]
                probabilities = probabilities_of(batch @ centers[by_class].T, positions, scale, arguments.margin)
                fractions = [
                    skippable_fraction(probabilities, batch, centers[by_class], positions, shape, arguments.error)
                    for shape in shapes
                ]
                row = "".join(f"{fraction:10.3f}" for fraction in fractions)
                print(f"{len(centers):9,}{scale:7g}  {order:6}{row}", flush=True)


if __name__ == "__main__":
    main()
