"""Margins that depend on the norm of the embedding, which increases with the quality of the image."""

from types import MappingProxyType

import keras
from keras import ops

from keras_arcface._arguments import check
from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine
from keras_arcface.margins.base import cosine_of_shifted_angle

# As in the code of AdaFace: norms are clipped to this range, and the constant is added to the standard deviation.
_NORM_RANGE, _EPSILON = (1e-3, 100.0), 1e-3


@keras.saving.register_keras_serializable(package="keras_arcface")
class AdaptiveMargin(Margin):
    """AdaFace margin, which depends on the norm of the embedding, an estimate of image quality.

    Let `z` be the embedding's norm, minus the running mean of norms, divided by their standard deviation, times
    `concentration`, clipped to [-1, 1]. The penalized cosine is `cos(theta - margin * z) - margin * (1 + z)`: ArcFace
    for the worst images, CosFace for average ones, and ArcFace with a negative angular margin for the best. A negative
    `theta - margin * z` is replaced by 0. No gradient flows through the norm. The running statistics exclude norms that
    are not finite. The head `AdaFace` has this margin.

    Args:
        margin: margin `m` of the paper, in [0, 1].
        concentration: concentration `h` of the paper, above 0.
        momentum: weight of the previous statistics in each training step, in [0, 1).

    Raises:
        ValueError: if an argument is out of its range.
        TypeError: for a call without a batch, because the margin depends on the norms.

    Examples:
        Three images at an angle of 90 degrees, of low, average and high quality:

        >>> norms = np.array([5.0, 20.0, 35.0], "float32")
        >>> state = {"norm_mean": 20.0, "norm_std": 5.0}
        >>> batch = Batch(np.arange(3), norms, None, gather=lambda v: v, local_part=lambda v: v, state=state)
        >>> cosines = np.zeros(3, "float32")
        >>> print(np.round(AdaptiveMargin(margin=0.4).for_batch(batch)(cosines), 2))
        [-0.39 -0.4  -0.41]

    References:
        - [AdaFace](https://arxiv.org/abs/2204.00964), equations 12 to 14
    """

    # As published. A standard deviation far above that of any batch keeps z near 0 in the first steps.
    initial_state = MappingProxyType({"norm_mean": 20.0, "norm_std": 100.0})

    def __init__(self, margin=0.4, concentration=0.333, momentum=0.99):
        check("concentration", concentration, concentration > 0, "above 0")
        check("momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
        self.margin, self.concentration, self.momentum = (
            check_cosine("margin", margin),
            float(concentration),
            float(momentum),
        )

    def next_state(self, batch):
        norms = batch.gather(ops.stop_gradient(ops.clip(batch.norms, *_NORM_RANGE)))
        finite = ops.isfinite(norms)
        count = ops.sum(ops.cast(finite, "float32"))
        mean = ops.sum(ops.where(finite, norms, 0.0)) / ops.maximum(count, 1.0)
        squares = ops.sum(ops.where(finite, ops.square(norms - mean), 0.0))
        current = {"norm_mean": mean, "norm_std": ops.sqrt(squares / ops.maximum(count - 1.0, 1.0))}
        momentum = ops.where(count > 0, self.momentum, 1.0)
        return {name: momentum * batch.state[name] + (1.0 - momentum) * current[name] for name in current}

    def for_batch(self, batch):
        norms = ops.stop_gradient(ops.clip(batch.norms, *_NORM_RANGE))
        z = (norms - batch.state["norm_mean"]) / (batch.state["norm_std"] + _EPSILON)
        z = ops.clip(self.concentration * z, -1.0, 1.0)
        return lambda cosines: cosine_of_shifted_angle(cosines, 1.0, -self.margin * z) - self.margin * (1.0 + z)

    def __call__(self, cosines):
        raise TypeError(
            "AdaptiveMargin depends on norms. Expected: margin.for_batch(batch)(cosines). Received: margin(cosines)"
        )

    def get_config(self):
        return {"margin": self.margin, "concentration": self.concentration, "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_arcface")
class MagnitudeMargin(Margin):
    """MagFace margin, which increases with the norm of the embedding, and a regularizer that increases norms.

    The margin increases linearly from `min_margin` at the norm `min_norm` to `max_margin` at the norm `max_norm`. The
    regularizer is `weight * (norm / max_norm**2 + 1 / norm)`, which decreases up to `max_norm`. Gradients flow through
    the norm, so that high-quality images get embeddings of large norm. Norms are clipped to `[min_norm, max_norm]`, and
    clipped norms get no gradient. The embedder must be able to reach this range: `make_embedder(..., scaled=True)`.
    (The published code applies no margin where the cosine is below 0.) The head `MagFace` has this margin.

    Args:
        min_margin: margin at the norm `min_norm` and below, in radians, at least 0.
        max_margin: margin at the norm `max_norm` and above, in radians, from `min_margin` to `pi / 2`.
        min_norm: norm with the margin `min_margin`, above 0.
        max_norm: norm with the margin `max_margin`, above `min_norm`.
        weight: weight of the regularizer, at least 0. The paper uses 35.

    Raises:
        ValueError: if an argument is out of its range.
        TypeError: for a call without a batch, because the margin depends on the norms.

    Examples:
        Two images at the center of their class, with embeddings of norms 10 and 110. The second has the larger margin
        and the smaller penalty on its norm:

        >>> norms = np.array([10.0, 110.0], "float32")
        >>> batch = Batch(np.arange(2), norms, None, gather=lambda v: v, local_part=lambda v: v, state={})
        >>> margin = MagnitudeMargin()
        >>> print(np.round(margin.for_batch(batch)(np.ones(2, "float32")), 2))
        [0.9 0.7]
        >>> print(np.round(margin.regularizer(batch), 2))
        [3.53 0.64]

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
        fraction = (self._clipped_norms(batch) - self.min_norm) / (self.max_norm - self.min_norm)
        margins = self.min_margin + (self.max_margin - self.min_margin) * fraction
        return lambda cosines: cosine_of_shifted_angle(cosines, 1.0, margins)

    def regularizer(self, batch):
        norms = self._clipped_norms(batch)
        return self.weight * (norms / self.max_norm**2 + 1.0 / norms)

    def _clipped_norms(self, batch):
        return ops.clip(batch.norms, self.min_norm, self.max_norm)

    def __call__(self, cosines):
        raise TypeError(
            "MagnitudeMargin depends on norms. Expected: margin.for_batch(batch)(cosines). Received: margin(cosines)"
        )

    def get_config(self):
        return {name: getattr(self, name) for name in ("min_margin", "max_margin", "min_norm", "max_norm", "weight")}
