"""What share of a step's gradient could be left out because its probabilities are negligible, in blocks of which shape.

    python benchmarks/negligible_blocks.py embedder.keras cfp_tfrecord lfw_dev.bin

Where all probabilities of a block are next to nothing, two products of its gradient could be left out. Here a batch's
embeddings by a trained network meet the centers of its classes, the images of other people as further classes, and as
many more as asked for, drawn with the same mean and covariance. Blocks are left out from the smallest on, until the
gradient by the embeddings or that by the centers is off by a share of 1e-4; the table says how many those are. Rows and
classes are as they come, or sorted along the first principal axis, which brings together what is alike.
"""

import argparse
from pathlib import Path

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def gradient_slopes(cosines, labels, scale, margin):
    """Of the sum of losses by the cosines, the own ones apart, and these."""
    rows = np.arange(len(labels))
    logits = scale * cosines
    own = np.arccos(np.clip(cosines[rows, labels], -1, 1))
    logits[rows, labels] = scale * np.cos(np.minimum(own + margin, np.pi))
    logits -= logits.max(axis=1, keepdims=True)
    slopes = np.exp(logits)
    slopes /= slopes.sum(axis=1, keepdims=True)
    return slopes


def share_left_out(slopes, embeddings, centers, labels, shape, error):
    """The largest share of blocks without which both gradients are off by at most `error`."""
    height, width = (min(size, whole) for size, whole in zip(shape, slopes.shape, strict=True))
    rows, columns = (n // size * size for n, size in zip(slopes.shape, (height, width), strict=True))
    others = slopes[:rows, :columns].copy()
    is_own = labels[:rows] < columns
    others[np.flatnonzero(is_own), labels[:rows][is_own]] = np.inf  # never left out
    largest = others.reshape(rows // height, height, columns // width, width).max(axis=(1, 3))
    order = np.sort(largest.ravel())
    exact = slopes.copy()
    exact[np.arange(len(labels)), labels] -= 1
    sizes = [np.linalg.norm(exact @ centers), np.linalg.norm(exact.T @ embeddings)]

    def is_small(count):
        keep_above = order[count - 1]
        out = np.repeat(np.repeat(largest <= keep_above, height, axis=0), width, axis=1)
        left = np.where(out, slopes[:rows, :columns], 0)
        missing = [left @ centers[:columns], left.T @ embeddings[:rows]]
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
    embedder = evaluation.load_embedder(arguments.embedder)
    embeddings, labels = evaluation.embed_dataset(embedder, data.load_dataset(arguments.data, batch_size=64))
    pairs = evaluation.embed_pairs(embedder, data.PairSet.load(arguments.pairs))
    embeddings, others = unit(embeddings), unit(pairs)[::2]
    real = unit(np.stack([embeddings[labels == c].mean(axis=0) for c in range(labels.max() + 1)]))
    real = np.concatenate([real, others])
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(labels))[: arguments.batch]
    embeddings, labels = embeddings[chosen], labels[chosen]
    print(f"{arguments.embedder.name}: {len(chosen)} embeddings, {len(real)} real centers, margin {arguments.margin}")
    print(f"share of blocks that can be left out at a gradient error of {arguments.error:g}\n")
    shapes = [(1, 1), (1, 64), (8, 64), (64, 64), (64, 1024), (len(chosen), 256), (len(chosen), 1024)]
    print(f"{'classes':>9}{'scale':>7}  order " + "".join(f"{f'{a}x{b}':>10}" for a, b in shapes))
    for count in arguments.classes:
        more = (
            generator.multivariate_normal(
                real.mean(axis=0), np.cov(real.T), max(0, count - len(real)), method="cholesky", check_valid="ignore"
            )
            if count > len(real)
            else real[:0]
        )
        centers = np.concatenate([real[:count], unit(more)]) if len(more) else real[:count]
        axis = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)[2][0]
        for scale in arguments.scales:
            for order in ("given", "sorted"):
                by_class = np.argsort(centers @ axis) if order == "sorted" else np.arange(len(centers))
                by_row = np.argsort(embeddings @ axis) if order == "sorted" else np.arange(len(embeddings))
                places = np.argsort(by_class)[labels[by_row]]
                batch = embeddings[by_row]
                slopes = gradient_slopes(batch @ centers[by_class].T, places, scale, arguments.margin)
                shares = [
                    share_left_out(slopes, batch, centers[by_class], places, shape, arguments.error) for shape in shapes
                ]
                row = "".join(f"{share:10.3f}" for share in shares)
                print(f"{len(centers):9,}{scale:7g}  {order:6}{row}", flush=True)


if __name__ == "__main__":
    main()
