"""The losses of losses.py, and for each what is tried of it."""

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
    """A loss to be compared.

    Attributes:
        head: `(num_classes, **choice)` -> head.
        choices: what is tried; `learning_rate` is the optimizer's, all others are the head's.
        warmed: whether it has a margin that comes in slowly.
        annealed: how far its annealing goes in a published training, `gamma * steps`, to go as far in this one; 0 to go
            by steps as in a published one.
        paired: whether its batches have several images of each of their people.
        scaled: whether the embedder's last BatchNorm has a scale.
        published: its LFW, CFP-FP and AgeDB-30 in table 2 of the ArcFace paper, for each choice if they differ.
    """

    head: Callable
    choices: tuple
    warmed: bool = False
    annealed: float = 0.0
    paired: bool = False
    scaled: bool = False
    published: tuple = ()


def options(names, *rows):
    return tuple(dict(zip(names.split(), row, strict=True)) for row in rows)


def with_margin(head, *rows, names="margin scale", **about):
    return Loss(head, options(names, *rows), warmed=True, **about)


def combined(num_classes, m1, m2, m3, **kwargs):
    return ka.MarginProduct(num_classes, margin=margins.CombinedMargin(m1, m2, m3), **kwargs)


def joined(term, head):
    def make(num_classes, weight, **choice):
        return term(head(num_classes, **choice), weight=weight)

    return make


def of_batch(loss):
    return lambda num_classes, **choice: layers.EmbeddingHead(loss(**choice))


ANGLES = ((0.3, 16), (0.5, 16), (0.5, 32))
COSINES = ((0.2, 16), (0.35, 16), (0.35, 32))
RATES = options("learning_rate", (0.05,), (0.1,), (0.2,))
WEIGHTS = options("weight scale", (1, 16), (5, 16), (5, 8))
TRIPLET = options("margin learning_rate", (0.2, 0.1), (0.5, 0.1), (0.2, 0.02))
CIRCLE = options("gamma margin", (80, 0.4), (80, 0.25), (32, 0.25))
CENTER = options("weight learning_rate", (3e-4, 0.1), (3e-4, 0.05), (3e-3, 0.05))
# Norms are kept, so that the learning rate matters as it does for plain softmax.
LARGE = options("margin learning_rate", (2, 0.05), (4, 0.05), (4, 0.02))
ANGULAR = options("margin learning_rate", (2, 0.05), (4, 0.05), (4, 0.1))

LOSSES = {
    "softmax": Loss(layers.SoftmaxProduct, RATES, published=(99.08, 94.39, 92.33)),
    "softmax + center": Loss(joined(layers.WithCenterLoss, layers.SoftmaxProduct), CENTER),
    "L-Softmax": Loss(layers.LSoftmax, LARGE, annealed=2.5e-5 * 10_000),
    "A-Softmax": Loss(layers.ASoftmax, ANGULAR),
    "triplet, hard": Loss(of_batch(losses.TripletLoss), TRIPLET, paired=True),
    "triplet, semi-hard": Loss(
        of_batch(functools.partial(losses.TripletLoss, mining="semihard")),
        TRIPLET,
        paired=True,
        published=(98.98, 91.90, 89.98),
    ),
    "circle": Loss(of_batch(keras.losses.Circle), CIRCLE, paired=True),
    "norm-softmax": Loss(layers.NormSoftmax, options("scale", (8,), (16,), (32,)), published=(98.56, 89.79, 88.72)),
    "norm-softmax + intra": Loss(
        joined(layers.WithIntraLoss, layers.NormSoftmax), WEIGHTS, published=(98.75, 93.81, 90.92)
    ),
    "norm-softmax + inter": Loss(
        joined(layers.WithInterLoss, layers.NormSoftmax), WEIGHTS, published=(98.68, 90.67, 89.50)
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
        ka.MagFace, (0.3, 0.5, 16), (0.45, 0.8, 16), (0.45, 0.8, 32), names="smallest largest scale", scaled=True
    ),
    "CurricularFace": with_margin(ka.CurricularFace, *ANGLES),
    "MV-softmax": with_margin(layers.MVSoftmax, *ANGLES),
    "ElasticFace": with_margin(ka.ElasticFace, *ANGLES),
    "UniFace": with_margin(ka.UniFace, (0.2, 16), (0.4, 16), (0.4, 32)),
}
