"""Margins that depend on the norm of the embedding, which grows with the quality of the image."""

from types import MappingProxyType

import keras
from keras import ops

from keras_arcface._arguments import check
from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine
from keras_arcface.margins.base import cosine_of_shifted_angle

# AdaFace clips norms to this range, and adds the second number to the standard deviation.
_NORMS, _SMALLEST_STD = (1e-3, 100.0), 1e-3


@keras.saving.register_keras_serializable(package="keras_arcface")
class AdaptiveMargin(Margin):
    """AdaFace: a margin that is larger for images of high quality.

    Let `z` be the embedding's norm, minus the running mean of norms, divided by their standard deviation, times
    `concentration`, clipped to [-1, 1]. The penalized cosine is `cos(theta - margin * z) - margin * (1 + z)`: ArcFace
    for the worst images, CosFace for average ones, and ArcFace with a negative angular margin for the best. A negative
    `theta - margin * z` counts as 0. No gradient flows through the norm. Norms that are not finite are left out of the
    running statistics.

    Args:
        margin: `m`, in [0, 1].
        concentration: `h`, above 0.
        momentum: weight of the old statistics in each training step, in [0, 1).

    Raises:
        ValueError: for values outside these ranges.

    References:
        - [AdaFace](https://arxiv.org/abs/2204.00964), equations 12 to 14
    """

    # As published: far from the statistics of any batch, so that z is near 0 in the first steps.
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
        norms = batch.gather(ops.stop_gradient(ops.clip(batch.norms, *_NORMS)))
        finite = ops.isfinite(norms)
        count = ops.sum(ops.cast(finite, "float32"))
        mean = ops.sum(ops.where(finite, norms, 0.0)) / ops.maximum(count, 1.0)
        squares = ops.sum(ops.where(finite, ops.square(norms - mean), 0.0))
        current = {"norm_mean": mean, "norm_std": ops.sqrt(squares / ops.maximum(count - 1.0, 1.0))}
        kept = ops.where(count > 0, self.momentum, 1.0)
        return {name: kept * batch.state[name] + (1.0 - kept) * current[name] for name in current}

    def for_batch(self, batch):
        norms = ops.stop_gradient(ops.clip(batch.norms, *_NORMS))
        z = (norms - batch.state["norm_mean"]) / (batch.state["norm_std"] + _SMALLEST_STD)
        z = ops.clip(self.concentration * z, -1.0, 1.0)
        return lambda cosines: cosine_of_shifted_angle(cosines, 1.0, -self.margin * z) - self.margin * (1.0 + z)

    def __call__(self, cosines):
        raise TypeError("AdaptiveMargin depends on the embeddings' norms: margin.for_batch(batch)(cosines)")

    def get_config(self):
        return {"margin": self.margin, "concentration": self.concentration, "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_arcface")
class MagnitudeMargin(Margin):
    """MagFace: ArcFace with a margin that grows with the embedding's norm, and a regularizer that makes norms grow.

    The margin rises linearly from `min_margin` at the norm `min_norm` to `max_margin` at the norm `max_norm`. The regularizer
    is `weight * (norm / max_norm**2 + 1 / norm)`, which falls up to `max_norm`. Gradients flow through the norm, so that
    good images get long embeddings. Norms outside of the range count as `min_norm` or `max_norm` and get no gradient;
    embeddings must be able to reach the range: `make_embedder(..., scaled=True)`. (The published code applies no margin
    where the cosine is below 0.)

    Args:
        min_margin, max_margin: margins in radians, `0 <= min_margin <= max_margin <= pi / 2`.
        min_norm, max_norm: norms, `0 < min_norm < max_norm`.
        weight: weight of the regularizer, at least 0. The paper uses 35.

    Raises:
        ValueError: for values outside these ranges.

    References:
        - [MagFace](https://arxiv.org/abs/2103.06627), equations 3 and 4
    """

    def __init__(self, min_margin=0.45, max_margin=0.8, min_norm=10.0, max_norm=110.0, weight=35.0):
        self.min_margin, self.max_margin = check_angle("min_margin", min_margin), check_angle("max_margin", max_margin)
        check("max_margin", max_margin, min_margin <= max_margin, f"at least min_margin={min_margin}")
        check("min_norm", min_norm, min_norm > 0, "above 0")
        check("max_norm", max_norm, min_norm < max_norm, f"above min_norm={min_norm}")
        check("weight", weight, weight >= 0, "at least 0")
        self.min_norm, self.max_norm, self.weight = float(min_norm), float(max_norm), float(weight)

    def for_batch(self, batch):
        share = (self._norms(batch) - self.min_norm) / (self.max_norm - self.min_norm)
        margins = self.min_margin + (self.max_margin - self.min_margin) * share
        return lambda cosines: cosine_of_shifted_angle(cosines, 1.0, margins)

    def regularizer(self, batch):
        norms = self._norms(batch)
        return self.weight * (norms / self.max_norm**2 + 1.0 / norms)

    def _norms(self, batch):
        return ops.clip(batch.norms, self.min_norm, self.max_norm)

    def __call__(self, cosines):
        raise TypeError("MagnitudeMargin depends on the embeddings' norms: margin.for_batch(batch)(cosines)")

    def get_config(self):
        return {name: getattr(self, name) for name in ("min_margin", "max_margin", "min_norm", "max_norm", "weight")}
