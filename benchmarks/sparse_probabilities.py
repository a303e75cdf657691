"""Counts the classes with a probability during trainings with alpha-divergences, with the margin in the prior or not.

    python benchmarks/sparse_probabilities.py cfp_tfrecord --output out

Each training uses the recipe `small` with fewer channels. At some steps, the network embeds 512 training images without
augmentation. The table shows the mean number of classes with a probability per image, in percent of all classes, and
the percentage of images whose target class has none. `prior` is `QMargin`. `logits` subtracts the margin from the
target logit instead, with a prior of 1. The other trainings differ in the margin warm-up, which increases the margin
over the first half of the training.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
from compared_losses import with_margin
from keras import ops
from losses import RECIPE
from losses import batches_of
from losses import make_model

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import layers
from keras_arcface.layers.chunked.divergence import AlphaDivergence

SHARES = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
COLUMNS = ("start", "2%", "5%", "10%", "25%", "50%", "75%", "end")


def solve(logits, labels, alpha, margin):
    """Returns the probabilities of `(batch, classes)` logits."""
    divergence, targets = AlphaDivergence(alpha), ops.one_hot(labels, logits.shape[1])
    reference = ops.max(logits - margin * targets, axis=1)
    excess = logits - ops.expand_dims(reference, 1)

    def moments_at(threshold):
        return divergence.moments(excess - ops.expand_dims(threshold, 1), targets > 0, margin)

    def sums_at(threshold):
        return tuple(ops.sum(values, axis=1) for values in moments_at(threshold))

    start = ops.zeros_like(reference)
    threshold, weighted = divergence.solve(sums_at, start, sums_at(start))
    losses = divergence.losses(threshold, ops.sum(excess * targets, axis=1), margin, weighted)
    return moments_at(threshold)[0], losses


class MarginInLogits(layers.CosFace):
    """The alpha-divergence with a prior of 1, of logits with a margin."""

    def __init__(self, num_classes, *, alpha, **kwargs):
        super().__init__(num_classes, **kwargs)
        self.alpha = alpha

    def loss_and_stats(self, labels, embeddings, training=False):
        _, targets, hits = super().loss_and_stats(labels, embeddings, training)
        logits = self(embeddings, labels)
        p, losses = solve(ops.stop_gradient(logits), labels, self.alpha, 0.0)
        slopes = ops.stop_gradient(p - ops.one_hot(labels, self.num_classes))
        return losses + ops.sum(slopes * (logits - ops.stop_gradient(logits)), axis=1), targets, hits


def counts(model, images, labels, in_prior):
    """Returns the mean number of classes with a probability, and the fraction of images whose target has none."""
    head, embeddings = model.head, evaluation.embed_images(model.embedder, images, flip=False, progress=False)
    margin = float(head.margin.m3 * head.strength * head.scale)
    logits = ops.convert_to_numpy(head(embeddings)).copy()
    rows = np.arange(len(labels))
    if not in_prior:
        logits[rows, labels] -= margin
    p, _ = solve(ops.convert_to_tensor(logits), labels, head.alpha, margin if in_prior else 0.0)
    p = ops.convert_to_numpy(p)
    return float((p > 0).sum(axis=1).mean()), float((p[rows, labels] == 0).mean())


def train(arguments, alpha, in_prior, warmup):
    info = data.load_info(arguments.data)
    loss = with_margin(
        layers.QMargin if in_prior else MarginInLogits,
        (arguments.margin, arguments.scale, alpha),
        names="margin scale alpha",
    )
    recipe = RECIPE.replace(epochs=arguments.epochs, seed=0)
    keras.utils.set_random_seed(0)
    model = make_model(loss, 0, recipe, info)
    if not warmup:
        model.head.warmup_steps = 0
        model.head.strength.assign(1.0)
    # The dataset is sorted by person, so that a part of it is not enough.
    images, labels = zip(*data.load_dataset(arguments.data, batch_size=64), strict=True)
    chosen = np.random.default_rng(0).choice(info.num_examples, 512, replace=False)
    images, labels = np.concatenate(images)[chosen], np.concatenate(labels)[chosen]
    batches = batches_of(arguments.data, 0, arguments.epochs, False)
    moments = [round(share * len(batches)) for share in SHARES]
    found = []
    for step, batch in enumerate([*batches, None]):
        if step in moments:
            found.append(counts(model, images, labels, in_prior))
        if batch is not None:
            logs = model.train_on_batch(*batch, return_dict=True)
    print(f"  alpha {alpha:g}: loss {float(logs['loss']):.2f}, accuracy {float(logs['accuracy']):.3f}", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=str, help="directory of TFRecords")
    parser.add_argument("--output", type=Path, required=True, help="folder for the counts")
    parser.add_argument("--alphas", nargs="+", type=float, default=[1.1, 1.25, 1.5])
    parser.add_argument("--margin", type=float, default=0.2)
    parser.add_argument("--scale", type=float, default=16.0)
    parser.add_argument("--epochs", type=float, default=10.0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = {}
    for alpha in arguments.alphas:
        for place in ("prior", "logits"):
            for warmup in (True, False):
                name = f"{alpha:g} | {place} | {'yes' if warmup else 'no'}"
                rows[name] = train(arguments, alpha, place == "prior", warmup)
                (arguments.output / "counts.json").write_text(json.dumps(rows))
    print("\n| alpha | margin in | warm-up | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (3 + len(COLUMNS)))
    num_classes = data.load_info(arguments.data).num_classes
    for name, row in rows.items():
        cells = (f"{100 * mean / num_classes:.1f} / {100 * missing:.1f}" for mean, missing in row)
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
