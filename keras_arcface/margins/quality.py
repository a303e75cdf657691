"""Margins from the length of an embedding, which grows with the quality of its image."""

from types import MappingProxyType

import keras
from keras import ops

from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import check
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine
from keras_arcface.margins.base import penalized

# AdaFace's: norms outside count as these, and a standard deviation is never 0.
_NORMS, _SMALLEST_STD = (1e-3, 100.0), 1e-3


@keras.saving.register_keras_serializable(package="keras_arcface")
class AdaptiveMargin(Margin):
    """AdaFace: good images get an additive cosine margin that grows, bad ones an angular one that turns.

    With `z`, how many standard deviations of the running norms an embedding's norm lies above their mean, times
    `concentration` and cut to [-1, 1], it is `cos(theta - margin * z) - margin * (1 + z)`: CosFace for middling images,
    an ArcFace with a negative margin for the best and ArcFace for the worst. Where `theta - margin * z` falls below 0
    it counts as 0. No gradient goes through the norm. Norms that are not finite do not count in the running ones.

    Args:
        margin: `m`, in [0, 1].
        concentration: `h`, above 0.
        momentum: the share of the old statistics that is kept in each training step, in [0, 1).

    Raises:
        ValueError: for values outside these ranges.

    References:
        - [AdaFace](https://arxiv.org/abs/2204.00964), equations 12 to 14
    """

    # As published: far from any batch's, so that z is near 0 in the first steps.
    start = MappingProxyType({"norm_mean": 20.0, "norm_std": 100.0})

    def __init__(self, margin=0.4, concentration=0.333, momentum=0.99):
        check("concentration", concentration, concentration > 0, "above 0")
        check("momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
        self.margin, self.concentration, self.momentum = (
            check_cosine("margin", margin),
            float(concentration),
            float(momentum),
        )

    def next_state(self, batch):
        norms = batch.of_all(ops.stop_gradient(ops.clip(batch.norms, *_NORMS)))
        finite = ops.isfinite(norms)
        count = ops.sum(ops.cast(finite, "float32"))
        mean = ops.sum(ops.where(finite, norms, 0.0)) / ops.maximum(count, 1.0)
        squares = ops.sum(ops.where(finite, ops.square(norms - mean), 0.0))
        found = {"norm_mean": mean, "norm_std": ops.sqrt(squares / ops.maximum(count - 1.0, 1.0))}
        kept = ops.where(count > 0, self.momentum, 1.0)
        return {name: kept * batch.state[name] + (1.0 - kept) * found[name] for name in found}

    def for_batch(self, batch):
        norms = ops.stop_gradient(ops.clip(batch.norms, *_NORMS))
        z = (norms - batch.state["norm_mean"]) / (batch.state["norm_std"] + _SMALLEST_STD)
        z = ops.clip(self.concentration * z, -1.0, 1.0)
        return lambda cosines: penalized(cosines, 1.0, -self.margin * z) - self.margin * (1.0 + z)

    def __call__(self, cosines):
        raise TypeError("AdaptiveMargin depends on the embeddings' norms: margin.for_batch(batch)(cosines)")

    def get_config(self):
        return {"margin": self.margin, "concentration": self.concentration, "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_arcface")
class MagnitudeMargin(Margin):
    """MagFace: ArcFace with a margin that grows with the embedding's norm, and a term that makes norms grow.

    The margin rises linearly from `smallest`, at the norm `shortest` and below, to `largest`, at `longest` and above.
    The regularizer is `weight * (norm / longest**2 + 1 / norm)`, which falls up to `longest`. Gradients go through the
    norm: an embedding is long where that pays, in good images. Norms outside count as `shortest` or `longest`, and get
    no gradient, so embeddings must be able to reach what lies between: `make_embedder(..., scaled=True)`. The published
    code has no margin where the cosine is below 0.

    Args:
        smallest, largest: margins in radians, `0 <= smallest <= largest <= pi / 2`.
        shortest, longest: norms, `0 < shortest < longest`.
        weight: of the regularizer, at least 0. The paper takes 35.

    Raises:
        ValueError: for values outside these ranges.

    References:
        - [MagFace](https://arxiv.org/abs/2103.06627), equations 3 and 4
    """

    def __init__(self, smallest=0.45, largest=0.8, shortest=10.0, longest=110.0, weight=35.0):
        self.smallest, self.largest = check_angle("smallest", smallest), check_angle("largest", largest)
        check("largest", largest, smallest <= largest, f"at least smallest={smallest}")
        check("shortest", shortest, shortest > 0, "above 0")
        check("longest", longest, shortest < longest, f"above shortest={shortest}")
        check("weight", weight, weight >= 0, "at least 0")
        self.shortest, self.longest, self.weight = float(shortest), float(longest), float(weight)

    def for_batch(self, batch):
        share = (self._norms(batch) - self.shortest) / (self.longest - self.shortest)
        margins = self.smallest + (self.largest - self.smallest) * share
        return lambda cosines: penalized(cosines, 1.0, margins)

    def regularizer(self, batch):
        norms = self._norms(batch)
        return self.weight * (norms / self.longest**2 + 1.0 / norms)

    def _norms(self, batch):
        return ops.clip(batch.norms, self.shortest, self.longest)

    def __call__(self, cosines):
        raise TypeError("MagnitudeMargin depends on the embeddings' norms: margin.for_batch(batch)(cosines)")

    def get_config(self):
        return {name: getattr(self, name) for name in ("smallest", "largest", "shortest", "longest", "weight")}
