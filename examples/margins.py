"""Plots the logit of each loss over the angle between an embedding and a class center.

    pip install 'keras-arcface[plots]'
    python examples/margins.py docs/margins.png

The package computes every curve. Logits are divided by the scale. Annealed curves are interpolated here.
"""

import argparse
import math
from pathlib import Path

import keras
import matplotlib
import numpy as np

from keras_arcface import layers
from keras_arcface import losses
from keras_arcface import margins

DEGREES = np.linspace(0, 180, 361)
COSINES = np.cos(np.radians(DEGREES)).astype("float32")
# The color-blind safe palette of Okabe and Ito.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", type=Path, help="image file to write")
    draw(parser.parse_args().output)


def curve_at_norm(margin, norm, **state):
    """Returns the curve of a margin that depends on the embedding norm."""
    batch = margins.Batch(None, np.full(len(COSINES), norm, "float32"), None, None, None, state)
    return margin.for_batch(batch)(COSINES)


def fixed_margins():
    return {
        "none": COSINES,
        "SphereFace 1.35": margins.CombinedMargin(m1=1.35)(COSINES),
        "CosFace 0.35": margins.CombinedMargin(m3=0.35)(COSINES),
        "ArcFace 0.5": margins.CombinedMargin(m2=0.5)(COSINES),
        "combined 0.9, 0.4, 0.15": margins.CombinedMargin(0.9, 0.4, 0.15)(COSINES),
    }


def annealed():
    full_margin = keras.ops.convert_to_numpy(margins.CombinedMargin(m1=4)(COSINES))
    return {f"annealing {a:g}": (a * COSINES + full_margin) / (1 + a) for a in (1000, 20, 5, 0)}


def adaface():
    margin, statistics = margins.AdaptiveMargin(0.4), {"norm_mean": 20.0, "norm_std": 3.0}
    return {f"norm {norm}": curve_at_norm(margin, norm, **statistics) for norm in (11, 20, 29)}


def magface():
    return {f"norm {norm}": curve_at_norm(margins.MagnitudeMargin(), norm) for norm in (10, 60, 110)}


def elasticface():
    return {f"margin {m:g}": margins.ElasticMargin(m)(COSINES) for m in (0.4, 0.5, 0.6)}


def negatives():
    """Logits of other classes. The target, with margin, is at 70 degrees."""
    target = math.cos(math.radians(70))
    curricular, misclassified = layers.CurricularNegatives(), layers.MisclassifiedNegatives()
    return {
        "unchanged": COSINES,
        "MV-softmax": misclassified(COSINES, target, 1.2),
        "CurricularFace, t 0": curricular(COSINES, target, 0.0),
        "CurricularFace, t 0.5": curricular(COSINES, target, 0.5),
    }


def uniface():
    """Losses of single classes for a threshold at the cosine 0.25."""
    scale, bias = 16.0, 4.0
    target = keras.ops.softplus(bias - scale * margins.CombinedMargin(m3=0.4)(COSINES))
    return {"target class": target, "other class": keras.ops.softplus(scale * COSINES - bias)}


def triplets():
    """Loss of an anchor over the angle to its positive."""
    return {f"negative at {degrees}°": [_triplet(angle, degrees) for angle in DEGREES[::12]] for degrees in (60, 90)}


def _triplet(positive, negative):
    angles = np.radians([0.0, positive, negative])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")
    return float(losses.TripletLoss(0.35).call(np.array([0, 0, 1]), embeddings)[0])


PANELS = {
    "fixed margins": fixed_margins,
    "L-Softmax, A-Softmax (m 4), divided by norms": annealed,
    "AdaFace (mean norm 20, deviation 3)": adaface,
    "MagFace": magface,
    "ElasticFace: mean ± 2 deviations": elasticface,
    "other classes; target (with margin) at 70°": negatives,
    "UniFace: loss (scale 16)": uniface,
    "triplet: loss over the angle to the positive": triplets,
}


def draw(output: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 2, figsize=(8.4, 12.6))
    for axis, (title, curves) in zip(axes.flat, PANELS.items(), strict=True):
        for color, (name, values) in zip(COLORS, curves().items(), strict=False):
            values = keras.ops.convert_to_numpy(values)
            axis.plot(np.linspace(0, 180, len(values)), values, color=color, label=name)
        axis.set_title(title, fontsize=11)
        axis.set(xlabel="angle, degrees", xticks=range(0, 181, 30), xlim=(0, 180))
        axis.set_ylabel("loss" if "loss" in title else "logit / scale")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="best" if "loss" in title else "lower left")
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    print(output)


if __name__ == "__main__":
    main()
