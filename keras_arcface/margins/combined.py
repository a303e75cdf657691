"""Combined margin of SphereFace, ArcFace and CosFace."""

import math

import keras
from keras import ops

from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine
from keras_arcface.margins.base import check_factor
from keras_arcface.margins.base import cosine_of_shifted_angle


@keras.saving.register_keras_serializable(package="keras_arcface")
class CombinedMargin(Margin):
    """Combined margin of SphereFace, ArcFace and CosFace, `cos(m1 * theta + m2) - m3`.

    | margin     | m1   | m2  | m3   |
    |------------|------|-----|------|
    | SphereFace | 1.35 | 0   | 0    |
    | ArcFace    | 1    | 0.5 | 0    |
    | CosFace    | 1    | 0   | 0.35 |

    Above `m1 * theta + m2 = pi` the plain cosine would increase again and reward embeddings far from their center.
    Therefore the margin uses the continuation of SphereFace: with `k = floor((m1 * theta + m2) / pi)`, psi is `(-1)**k
    * cos(m1 * theta + m2) - 2 * k - m3`. It is continuous with a continuous derivative, and decreases on all of [0,
    pi]. (In this range, InsightFace uses `cos(theta) - m2 * sin(m2)`, which decreases but is not continuous; its
    `easy_margin` applies no margin.)

    Gradients follow the formula, but are finite at cosines of +-1, where its derivative is infinite.

    Args:
        m1: factor on the angle, above 0 and at most 10. A factor below 1 requires an `m2` of at least `(1 - m1) * pi`;
            otherwise large angles would be rewarded.
        m2: angle to add, in radians, at least 0 and at most `pi / 2`. With `m1` below 1, the maximum increases by `(1 -
            m1) * pi`.
        m3: amount to subtract from the cosine, in [0, 1].

    Raises:
        ValueError: if an argument is out of its range, such as an angle in degrees.

    Examples:
        >>> cosines = np.array([1.0, 0.5, 0.0])
        >>> print(np.round(CombinedMargin(m2=0.5)(cosines), 2))  # ArcFace
        [ 0.88  0.02 -0.48]
        >>> print(np.round(CombinedMargin(m3=0.35)(cosines), 2))  # CosFace
        [ 0.65  0.15 -0.35]

        All three at once, as in the combined margin of the ArcFace paper:

        >>> head = keras_arcface.MarginProduct(num_classes=1000, margin=CombinedMargin(m1=1.0, m2=0.3, m3=0.2))

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 4
        - [CosFace](https://arxiv.org/abs/1801.09414)
        - [SphereFace](https://arxiv.org/abs/1704.08063)
    """

    def __init__(self, m1=1.0, m2=0.0, m3=0.0):
        m1 = check_factor("m1", m1, minimum=0.0)
        if m1 == 0:
            raise ValueError(f"m1 must be above 0. Received: m1={m1}")
        m2 = check_angle("m2", m2, maximum=math.pi / 2 + max(0.0, 1 - m1) * math.pi)
        m3 = check_cosine("m3", m3)
        if m1 * math.pi + m2 < math.pi:
            raise ValueError(
                f"m2 must be at least (1 - m1) * pi = {(1 - m1) * math.pi:.4f} with m1 below 1, so that m1 * theta + "
                f"m2 is at least theta on all of [0, pi]. Received: m1={m1}, m2={m2}"
            )
        self.m1, self.m2, self.m3 = m1, m2, m3

    def __call__(self, cosines):
        if self.m1 == 1.0 and self.m2 == 0.0:
            return ops.clip(cosines, -1.0, 1.0) - self.m3
        return cosine_of_shifted_angle(cosines, self.m1, self.m2) - self.m3

    def get_config(self):
        return {"m1": self.m1, "m2": self.m2, "m3": self.m3}
