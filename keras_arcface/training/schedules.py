"""Learning-rate schedules with a linear warm-up.

Lengths are in steps by default. With `steps_per_epoch`, they are in epochs, which may be fractional.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_arcface._arguments import check
from keras_arcface._arguments import check_number


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Base class of schedules with a linear warm-up from 0 to `peak`.

    After the warm-up, the learning rate is `peak` multiplied by the factor that a subclass returns from `_factor`.
    """

    def __init__(self, peak, warmup, steps_per_epoch):
        check_number("peak", peak, lambda value: value > 0, "a learning rate above 0")
        check_number("warmup", warmup, lambda value: value >= 0, "at least 0")
        check_number("steps_per_epoch", steps_per_epoch, lambda value: value >= 1, "at least 1")
        self.peak, self.warmup, self.steps_per_epoch = peak, warmup, steps_per_epoch

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = self.warmup * self.steps_per_epoch
        rate = self.peak * self._factor(step)
        if warmup == 0:
            return rate
        return ops.where(step < warmup, self.peak * step / warmup, rate)

    def _factor(self, step):
        raise NotImplementedError(f"{type(self).__name__} must implement _factor(step)")

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup": self.warmup, "steps_per_epoch": self.steps_per_epoch}


class _Decay(_Schedule):
    """Base class of schedules that decay from the end of the warm-up to the end of the training."""

    def __init__(self, peak, total, warmup, steps_per_epoch):
        super().__init__(peak, warmup, steps_per_epoch)
        if not total > warmup:
            raise ValueError(f"total must be longer than warmup. Received: total={total}, warmup={warmup}")
        self.total = total

    def _remaining(self, step):
        """Returns the remaining fraction of the decay, from 1 at the end of the warm-up to 0 at `total`."""
        start, end = self.warmup * self.steps_per_epoch, self.total * self.steps_per_epoch
        return ops.clip((end - step) / (end - start), 0.0, 1.0)

    def get_config(self):
        return {**super().get_config(), "total": self.total}


@keras.saving.register_keras_serializable(package="keras_arcface")
class StepSchedule(_Schedule):
    """Schedule that multiplies the learning rate by a factor at given steps, as in the ArcFace paper.

    Args:
        peak: learning rate after the warm-up.
        boundaries: ascending steps (or epochs) at which the learning rate changes.
        factor: factor of the learning rate at each boundary.
        warmup: length of the linear increase from 0 to `peak`.
        steps_per_epoch: number of steps per epoch, if `boundaries` and `warmup` are in epochs.

    Raises:
        ValueError: if `peak` or `factor` is not above 0, a length is negative, or `boundaries` is not ascending.

    Examples:
        The schedule of the paper for CASIA-WebFace:

        >>> schedule = StepSchedule(0.1, boundaries=[20_000, 28_000])
        >>> [round(float(schedule(step)), 4) for step in (19_999, 20_000, 28_000)]
        [0.1, 0.01, 0.001]

        Boundaries in epochs of 11,000 steps:

        >>> schedule = StepSchedule(0.1, boundaries=[10, 16, 22], steps_per_epoch=11_000)
        >>> round(float(schedule(10 * 11_000)), 4)
        0.01

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.1
    """

    def __init__(self, peak, boundaries, factor=0.1, warmup=0, steps_per_epoch=1):
        super().__init__(peak, warmup, steps_per_epoch)
        is_ascending = list(boundaries) == sorted(set(boundaries)) and all(boundary >= 0 for boundary in boundaries)
        check("boundaries", boundaries, is_ascending, "ascending and not negative")
        check_number("factor", factor, lambda value: value > 0, "above 0")
        self.boundaries, self.factor = list(boundaries), factor

    def _factor(self, step):
        factor = ops.ones_like(step)
        for number, boundary in enumerate(self.boundaries, 1):
            factor = ops.where(step >= boundary * self.steps_per_epoch, self.factor**number, factor)
        return factor

    def get_config(self):
        return {**super().get_config(), "boundaries": self.boundaries, "factor": self.factor}


@keras.saving.register_keras_serializable(package="keras_arcface")
class PolynomialSchedule(_Decay):
    """Schedule that decays the learning rate polynomially to 0. Power 1 is the schedule of arcface_torch.

    The learning rate is `peak * remaining ** power`, where `remaining` falls from 1 to 0 after the warm-up.

    Args:
        peak: learning rate after the warm-up.
        total: length of the schedule, including the warm-up. The final learning rate is 0.
        power: exponent of the decay; 1 for a linear decay.
        warmup: length of the linear increase from 0 to `peak`.
        steps_per_epoch: number of steps per epoch, if `total` and `warmup` are in epochs.

    Raises:
        ValueError: if `peak` or `power` is not above 0, or `total` is not longer than `warmup`.

    Examples:
        >>> schedule = PolynomialSchedule(0.1, total=20, warmup=2, steps_per_epoch=100)
        >>> [round(float(schedule(100 * epoch)), 4) for epoch in (0, 1, 2, 11, 20)]
        [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    def __init__(self, peak, total, power=1.0, warmup=0, steps_per_epoch=1):
        super().__init__(peak, total, warmup, steps_per_epoch)
        check_number("power", power, lambda value: value > 0, "above 0")
        self.power = power

    def _factor(self, step):
        return self._remaining(step) ** self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable(package="keras_arcface")
class CosineSchedule(_Decay):
    """Schedule that decays the learning rate along half a period of a cosine.

    Args:
        peak: learning rate after the warm-up.
        total: length of the schedule, including the warm-up.
        end_factor: learning rate at the end as a fraction of `peak`.
        warmup: length of the linear increase from 0 to `peak`.
        steps_per_epoch: number of steps per epoch, if `total` and `warmup` are in epochs.

    Raises:
        ValueError: if `peak` is not above 0, `end_factor` is outside of [0, 1], or `total` is not longer than `warmup`.

    Examples:
        >>> schedule = CosineSchedule(1e-3, total=40, end_factor=0.1, warmup=2, steps_per_epoch=100)
        >>> [round(float(schedule(100 * epoch)), 6) for epoch in (1, 2, 21, 40)]
        [0.0005, 0.001, 0.00055, 0.0001]

    References:
        - [SGDR](https://arxiv.org/abs/1608.03983)
    """

    def __init__(self, peak, total, end_factor=0.0, warmup=0, steps_per_epoch=1):
        super().__init__(peak, total, warmup, steps_per_epoch)
        check_number("end_factor", end_factor, lambda value: 0 <= value <= 1, "in [0, 1]")
        self.end_factor = end_factor

    def _factor(self, step):
        return self.end_factor + (1 - self.end_factor) * (1 - ops.cos(math.pi * self._remaining(step))) / 2

    def get_config(self):
        return {**super().get_config(), "end_factor": self.end_factor}
