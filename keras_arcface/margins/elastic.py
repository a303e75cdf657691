"""Margin of ElasticFace, a random variable in training."""

import keras
from keras import ops

from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine
from keras_arcface.margins.base import cosine_of_shifted_angle


@keras.saving.register_keras_serializable(package="keras_arcface")
class ElasticMargin(Margin):
    """ElasticFace margin, drawn from a normal distribution for each example and training step.

    Outside of training the margin is the mean. The defaults are those of ElasticFace-Arc. ElasticFace-Cos is
    `ElasticMargin(0.35, 0.05, angular=False)`. With `sort=True`, the paper uses a standard deviation of 0.0175 for
    angles and 0.025 for cosines. The head `ElasticFace` has this margin.

    Args:
        mean: mean of the margins, an angle in [0, pi / 2] radians or a cosine in [0, 1].
        std: standard deviation of the margins, in the same range as `mean`.
        angular: if true, the margin is added to the angle (ArcFace); if false, it is subtracted from the cosine
            (CosFace).
        sort: if true, examples farther from their center get larger margins within a batch (ElasticFace+).

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        The margins of four examples, with a large standard deviation:

        >>> samples = np.array([-1.0, 0.0, 1.0, 2.0], "float32")
        >>> batch = Batch(np.arange(4), np.ones(4), samples, gather=lambda v: v, local_part=lambda v: v, state={})
        >>> margin = ElasticMargin(mean=0.35, std=0.1, angular=False)
        >>> cosines = np.ones(4, "float32")
        >>> print(np.round(margin.for_batch(batch)(cosines), 2))
        [0.75 0.65 0.55 0.45]
        >>> print(np.round(margin(cosines), 2))  # outside of training
        [0.65 0.65 0.65 0.65]

    References:
        - [ElasticFace](https://arxiv.org/abs/2109.09416)
    """

    is_random = True

    def __init__(self, mean=0.5, std=0.05, angular=True, sort=False):
        check = check_angle if angular else check_cosine
        self.mean, self.std = check("mean", mean), check("std", std)
        self.angular, self.sort = bool(angular), bool(sort)

    def for_batch(self, batch):
        if batch.normal_samples is None:
            return self

        def penalized_cosines(cosines):
            margins = self.mean + self.std * batch.normal_samples
            if self.sort:
                margins = _sort_by_distance(margins, ops.stop_gradient(cosines), batch)
            return self._apply(cosines, margins)

        return penalized_cosines

    def __call__(self, cosines):
        return self._apply(cosines, self.mean)

    def _apply(self, cosines, margins):
        return (
            cosine_of_shifted_angle(cosines, 1.0, margins) if self.angular else ops.clip(cosines, -1.0, 1.0) - margins
        )

    def get_config(self):
        return {"mean": self.mean, "std": self.std, "angular": self.angular, "sort": self.sort}


def _sort_by_distance(margins, cosines, batch):
    """Reorders margins so that they increase with the distance from the center, over all replicas."""
    margins, cosines = batch.gather(margins), batch.gather(cosines)
    rank = ops.argsort(ops.argsort(-cosines))  # 0 for the example closest to its center
    return batch.local_part(ops.take(ops.sort(margins), rank))
