"""Learning rates by step: a linear warm-up, then the decays of the papers.

Lengths are in steps. With `steps_per_epoch` they are in epochs instead, fractions allowed.
"""

import math

import keras
from keras import ops


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up from 0 to the peak, then what a subclass makes of the share of the way that is done."""

    def __init__(self, peak, warmup, steps_per_epoch):
        if not peak > 0:
            raise ValueError(f"peak, the highest learning rate, must be above 0. Received: peak={peak}")
        if not warmup >= 0:
            raise ValueError(f"warmup must not be negative. Received: warmup={warmup}")
        if not steps_per_epoch >= 1:
            raise ValueError(f"steps_per_epoch must be at least 1. Received: steps_per_epoch={steps_per_epoch}")
        self.peak, self.warmup, self.steps_per_epoch = peak, warmup, steps_per_epoch

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = self.warmup * self.steps_per_epoch
        rate = self.peak * self._factor(step)
        if warmup == 0:
            return rate
        return ops.where(step < warmup, self.peak * step / warmup, rate)

    def _factor(self, step):
        raise NotImplementedError(f"{type(self).__name__} does not implement _factor(step).")

    def get_config(self):
        return {"peak": self.peak, "warmup": self.warmup, "steps_per_epoch": self.steps_per_epoch}


class _Decay(_Schedule):
    """A decay between the end of the warm-up and the end of the training."""

    def __init__(self, peak, total, warmup, steps_per_epoch):
        super().__init__(peak, warmup, steps_per_epoch)
        if not total > warmup:
            raise ValueError(f"total must be longer than the warm-up. Received: total={total}, warmup={warmup}")
        self.total = total

    def _remaining(self, step):
        """What is left of the way, from 1 at the end of the warm-up to 0; 0 from then on."""
        start, end = self.warmup * self.steps_per_epoch, self.total * self.steps_per_epoch
        return ops.clip((end - step) / (end - start), 0.0, 1.0)

    def get_config(self):
        return {**super().get_config(), "total": self.total}


@keras.saving.register_keras_serializable(package="keras_arcface")
class StepSchedule(_Schedule):
    """A rate that falls by a factor at given steps, as in the ArcFace paper.

    >>> StepSchedule(0.1, at=[20_000, 28_000])                        # CASIA-WebFace
    >>> StepSchedule(0.1, at=[10, 16, 22], steps_per_epoch=11_000)    # the same in epochs

    Args:
        peak: the rate after the warm-up.
        at: when the rate falls, ascending.
        factor: by what it is multiplied each time.
        warmup: how long the rate rises linearly from 0.
        steps_per_epoch: steps in an epoch, if `at` and `warmup` are in epochs.

    Raises:
        ValueError: for a rate or a factor that is not above 0, negative lengths, or places that do not ascend.

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.1
    """

    def __init__(self, peak, at, factor=0.1, warmup=0, steps_per_epoch=1):
        super().__init__(peak, warmup, steps_per_epoch)
        if list(at) != sorted(set(at)) or any(place < 0 for place in at):
            raise ValueError(f"at must be ascending steps (or epochs), none negative. Received: at={at}")
        if not factor > 0:
            raise ValueError(f"factor must be above 0. Received: factor={factor}")
        self.at, self.factor = list(at), factor

    def _factor(self, step):
        factor = ops.ones_like(step)
        for number, place in enumerate(self.at, 1):
            factor = ops.where(step >= place * self.steps_per_epoch, self.factor**number, factor)
        return factor

    def get_config(self):
        return {**super().get_config(), "at": self.at, "factor": self.factor}


@keras.saving.register_keras_serializable(package="keras_arcface")
class PolynomialSchedule(_Decay):
    """A rate that falls as `(1 - share of the way done) ** power`, as arcface_torch's does with power 1.

    >>> PolynomialSchedule(0.1, total=20, steps_per_epoch=5_686)

    Args:
        peak: the rate after the warm-up.
        total: when the rate arrives at 0, warm-up included.
        power: 1 for a straight line.
        warmup: how long the rate rises linearly from 0.
        steps_per_epoch: steps in an epoch, if `total` and `warmup` are in epochs.

    Raises:
        ValueError: for a rate or a power that is not above 0, or a total that is not longer than the warm-up.
    """

    def __init__(self, peak, total, power=1.0, warmup=0, steps_per_epoch=1):
        super().__init__(peak, total, warmup, steps_per_epoch)
        if not power > 0:
            raise ValueError(f"power must be above 0. Received: power={power}")
        self.power = power

    def _factor(self, step):
        return self._remaining(step) ** self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable(package="keras_arcface")
class CosineSchedule(_Decay):
    """A rate that falls along half a cosine.

    >>> CosineSchedule(1e-3, total=40, warmup=2, steps_per_epoch=141)

    Args:
        peak: the rate after the warm-up.
        total: when the rate arrives at `end`, warm-up included.
        end: what is left of the peak then, as a share of it.
        warmup: how long the rate rises linearly from 0.
        steps_per_epoch: steps in an epoch, if `total` and `warmup` are in epochs.

    Raises:
        ValueError: for a rate that is not above 0, an end outside [0, 1], or a total that is not longer than the
            warm-up.

    References:
        - [SGDR](https://arxiv.org/abs/1608.03983)
    """

    def __init__(self, peak, total, end=0.0, warmup=0, steps_per_epoch=1):
        super().__init__(peak, total, warmup, steps_per_epoch)
        if not 0 <= end <= 1:
            raise ValueError(f"end must be a share of the peak, in [0, 1]. Received: end={end}")
        self.end = end

    def _factor(self, step):
        return self.end + (1 - self.end) * (1 - ops.cos(math.pi * self._remaining(step))) / 2

    def get_config(self):
        return {**super().get_config(), "end": self.end}
