"""The losses that losses.py compares, with the hyperparameters tried for each."""

import dataclasses
import functools
from collections.abc import Callable

import keras

import keras_arcface as ka
from keras_arcface import layers
from keras_arcface import losses
from keras_arcface import margins


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of the comparison.

    Attributes:
        head: function `(num_classes, **choice)` -> head.
        choices: the hyperparameters to try. `learning_rate` belongs to the optimizer, all others to the head.
        margin_warmup: whether the margin grows during the first half of the training.
        annealing: `gamma * steps` of the published training, which sets `gamma` for the shorter training here; 0 keeps
            the published schedule in steps.
        paired: whether a batch contains several images of each person.
        scaled: whether the embedder's last BatchNorm has a scale.
        published: LFW, CFP-FP and AgeDB-30 accuracy in table 2 of the ArcFace paper.
    """

    head: Callable
    choices: tuple
    margin_warmup: bool = False
    annealing: float = 0.0
    paired: bool = False
    scaled: bool = False
    published: tuple = ()


def options(names, *rows):
    return tuple(dict(zip(names.split(), row, strict=True)) for row in rows)


def with_margin(head, *rows, names="margin scale", **about):
    return Loss(head, options(names, *rows), margin_warmup=True, **about)


def combined(num_classes, m1, m2, m3, **kwargs):
    return ka.MarginProduct(num_classes, margin=margins.CombinedMargin(m1, m2, m3), **kwargs)


def with_term(term, head):
    def make(num_classes, weight, **choice):
        return term(head(num_classes, **choice), weight=weight)

    return make


def without_centers(loss):
    return lambda num_classes, **choice: layers.EmbeddingHead(loss(**choice))


ANGLES = ((0.3, 16), (0.5, 16), (0.5, 32))
COSINES = ((0.2, 16), (0.35, 16), (0.35, 32))
RATES = options("learning_rate", (0.05,), (0.1,), (0.2,))
WEIGHTS = options("weight scale", (1, 16), (5, 16), (5, 8))
TRIPLET = options("margin learning_rate", (0.2, 0.1), (0.5, 0.1), (0.2, 0.02))
CIRCLE = options("gamma margin", (80, 0.4), (80, 0.25), (32, 0.25))
CENTER = options("weight learning_rate", (3e-4, 0.1), (3e-4, 0.05), (3e-3, 0.05))
# The logits depend on the norms, so the learning rate matters as for plain softmax.
L_SOFTMAX = options("margin learning_rate", (2, 0.05), (4, 0.05), (4, 0.02))
A_SOFTMAX = options("margin learning_rate", (2, 0.05), (4, 0.05), (4, 0.1))

LOSSES = {
    "softmax": Loss(layers.SoftmaxProduct, RATES, published=(99.08, 94.39, 92.33)),
    "softmax + center": Loss(with_term(layers.WithCenterLoss, layers.SoftmaxProduct), CENTER),
    "L-Softmax": Loss(layers.LSoftmax, L_SOFTMAX, annealing=2.5e-5 * 10_000),
    "A-Softmax": Loss(layers.ASoftmax, A_SOFTMAX),
    "triplet, hard": Loss(without_centers(losses.TripletLoss), TRIPLET, paired=True),
    "triplet, semi-hard": Loss(
        without_centers(functools.partial(losses.TripletLoss, mining="semihard")),
        TRIPLET,
        paired=True,
        published=(98.98, 91.90, 89.98),
    ),
    "circle": Loss(without_centers(keras.losses.Circle), CIRCLE, paired=True),
    "norm-softmax": Loss(layers.NormSoftmax, options("scale", (8,), (16,), (32,)), published=(98.56, 89.79, 88.72)),
    "norm-softmax + intra": Loss(
        with_term(layers.WithIntraLoss, layers.NormSoftmax), WEIGHTS, published=(98.75, 93.81, 90.92)
    ),
    "norm-softmax + inter": Loss(
        with_term(layers.WithInterLoss, layers.NormSoftmax), WEIGHTS, published=(98.68, 90.67, 89.50)
    ),
    "SphereFace": with_margin(ka.SphereFace, (1.2, 16), (1.35, 16), (1.35, 32), published=(99.11, 94.38, 91.70)),
    "CosFace": with_margin(ka.CosFace, *COSINES, published=(99.51, 95.44, 94.56)),
    "ArcFace": with_margin(ka.ArcFace, *ANGLES, published=(99.53, 95.56, 95.15)),
    "combined": with_margin(
        combined,
        (1, 0.3, 0.2, 16),
        (0.9, 0.4, 0.15, 16),
        (1, 0.3, 0.2, 32),
        names="m1 m2 m3 scale",
        published=(99.48, 95.12, 94.38),
    ),
    "AdaFace": with_margin(ka.AdaFace, (0.25, 16), (0.4, 16), (0.4, 32)),
    "MagFace": with_margin(
        ka.MagFace, (0.3, 0.5, 16), (0.45, 0.8, 16), (0.45, 0.8, 32), names="min_margin max_margin scale", scaled=True
    ),
    "CurricularFace": with_margin(ka.CurricularFace, *ANGLES),
    "MV-softmax": with_margin(layers.MVSoftmax, *ANGLES),
    "ElasticFace": with_margin(ka.ElasticFace, *ANGLES),
    "QMargin": with_margin(layers.QMargin, (0.2, 16, 1.05), (0.2, 16, 1.1), (0.2, 8, 1.1), names="margin scale alpha"),
    "UniFace": with_margin(ka.UniFace, (0.2, 16), (0.4, 16), (0.4, 32)),
}
