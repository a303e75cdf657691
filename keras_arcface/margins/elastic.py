"""Margins that are drawn at random in training."""

import keras
from keras import ops

from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine
from keras_arcface.margins.base import cosine_of_shifted_angle


@keras.saving.register_keras_serializable(package="keras_arcface")
class ElasticMargin(Margin):
    """ElasticFace: each example's margin is drawn from a normal distribution in each training step.

    Outside of training the margin is the mean. The defaults are those of ElasticFace-Arc. ElasticFace-Cos is
    `ElasticMargin(0.35, 0.05, angular=False)`. The sorted forms use a standard deviation of 0.0175 and 0.025.

    Args:
        mean: mean of the margins, radians in [0, pi / 2] or a cosine in [0, 1].
        std: standard deviation of the margins, in the same range.
        angular: if true, the margin is added to the angle (ArcFace); if false, subtracted from the cosine (CosFace).
        sort: if true, the largest margins of a batch go to the examples farthest from their center (ElasticFace+).

    Raises:
        ValueError: for values outside these ranges.

    References:
        - [ElasticFace](https://arxiv.org/abs/2109.09416)
    """

    random = True

    def __init__(self, mean=0.5, std=0.05, angular=True, sort=False):
        check = check_angle if angular else check_cosine
        self.mean, self.std = check("mean", mean), check("std", std)
        self.angular, self.sort = bool(angular), bool(sort)

    def for_batch(self, batch):
        if batch.normals is None:
            return self

        def penalized_cosines(cosines):
            margins = self.mean + self.std * batch.normals
            if self.sort:
                margins = _largest_to_farthest(margins, ops.stop_gradient(cosines), batch)
            return self._with(cosines, margins)

        return penalized_cosines

    def __call__(self, cosines):
        return self._with(cosines, self.mean)

    def _with(self, cosines, margins):
        return (
            cosine_of_shifted_angle(cosines, 1.0, margins) if self.angular else ops.clip(cosines, -1.0, 1.0) - margins
        )

    def get_config(self):
        return {"mean": self.mean, "std": self.std, "angular": self.angular, "sort": self.sort}


def _largest_to_farthest(margins, cosines, batch):
    margins, cosines = batch.gather(margins), batch.gather(cosines)
    rank = ops.argsort(ops.argsort(-cosines))  # 0 for the closest
    return batch.local(ops.take(ops.sort(margins), rank))
