"""Presets of `MarginProduct` with the margin, negatives and defaults of papers published after ArcFace."""

import keras

from keras_arcface.layers.margin_product import MarginProduct
from keras_arcface.layers.negatives import CurricularNegatives
from keras_arcface.layers.negatives import MisclassifiedNegatives
from keras_arcface.margins import AdaptiveMargin
from keras_arcface.margins import CombinedMargin
from keras_arcface.margins import ElasticMargin
from keras_arcface.margins import MagnitudeMargin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine


@keras.saving.register_keras_serializable(package="keras_arcface")
class NormSoftmax(MarginProduct):
    """Norm-softmax, a softmax of scaled cosines without a margin.

    Call arguments, other arguments and attributes are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        scale: scale of the logits, above 0.

    References:
        - [NormFace](https://arxiv.org/abs/1704.06369)
    """

    def __init__(self, num_classes, *, scale=64.0, **kwargs):
        super().__init__(num_classes, margin=None, scale=scale, **kwargs)

    def get_config(self):
        return _without(super().get_config(), "margin")


@keras.saving.register_keras_serializable(package="keras_arcface")
class AdaFace(MarginProduct):
    """AdaFace, with an `AdaptiveMargin` that is larger for embeddings of a large norm, which indicates high quality.

    Call arguments, other arguments and attributes are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: the margin `m` of the paper, in [0, 1].
        concentration: the concentration `h` of the paper, above 0.
        momentum: weight of the previous statistics of norms in each training step, in [0, 1).
        scale: scale of the logits, above 0.

    References:
        - [AdaFace: Quality Adaptive Margin for Face Recognition](https://arxiv.org/abs/2204.00964)
    """

    def __init__(self, num_classes, *, margin=0.4, concentration=0.333, momentum=0.99, scale=64.0, **kwargs):
        margin = AdaptiveMargin(margin, concentration, momentum)
        super().__init__(num_classes, margin=margin, scale=scale, **kwargs)

    def get_config(self):
        return {**super().get_config(), **self.margin.get_config()}


@keras.saving.register_keras_serializable(package="keras_arcface")
class MagFace(MarginProduct):
    """MagFace, with a `MagnitudeMargin` that increases with the embedding norm, and a regularizer of the norm.

    It requires an embedder with variable norms, `make_embedder(..., scaled=True)`. The regularizer is only in the
    loss, so a functional model cannot train MagFace by its logits. Call arguments, other arguments and attributes are
    those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        min_margin, max_margin: limits of the margin, in radians, `0 <= min_margin <= max_margin <= pi / 2`.
        min_norm, max_norm: norms with the margins `min_margin` and `max_margin`, `0 < min_norm < max_norm`.
        weight: weight of the regularizer, at least 0.
        scale: scale of the logits, above 0.

    References:
        - [MagFace: A Universal Representation for Face Recognition and Quality
          Assessment](https://arxiv.org/abs/2103.06627)
    """

    def __init__(
        self,
        num_classes,
        *,
        min_margin=0.45,
        max_margin=0.8,
        min_norm=10.0,
        max_norm=110.0,
        weight=35.0,
        scale=64.0,
        **kwargs,
    ):
        margin = MagnitudeMargin(min_margin, max_margin, min_norm, max_norm, weight)
        super().__init__(num_classes, margin=margin, scale=scale, **kwargs)

    def get_config(self):
        return {**_without(super().get_config(), "margin"), **self.margin.get_config()}


@keras.saving.register_keras_serializable(package="keras_arcface")
class ElasticFace(MarginProduct):
    """ElasticFace, with an `ElasticMargin` that is drawn at random for each example and training step.

    ElasticFace-Cos is `ElasticFace(n, margin=0.35, angular=False)`. Call arguments, other arguments and attributes are
    those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: mean of the margins, an angle in [0, pi / 2] radians or a cosine in [0, 1].
        std: standard deviation of the margins, in the same range as `margin`. With `sort=True`, the paper uses 0.0175
            for angles and 0.025 for cosines.
        angular: if true, the margin is added to the angle; if false, it is subtracted from the cosine.
        sort: if true, examples farther from their center get larger margins within a batch (ElasticFace+).
        scale: scale of the logits, above 0.

    References:
        - [ElasticFace: Elastic Margin Loss for Deep Face Recognition](https://arxiv.org/abs/2109.09416)
    """

    def __init__(self, num_classes, *, margin=0.5, std=0.05, angular=True, sort=False, scale=64.0, **kwargs):
        mean = check_angle("margin", margin) if angular else check_cosine("margin", margin)
        super().__init__(num_classes, margin=ElasticMargin(mean, std, angular, sort), scale=scale, **kwargs)

    def get_config(self):
        margin = self.margin.get_config()
        return {**super().get_config(), "margin": margin.pop("mean"), **margin}


@keras.saving.register_keras_serializable(package="keras_arcface")
class CurricularFace(MarginProduct):
    """CurricularFace, an ArcFace head with `CurricularNegatives`, whose weight increases during training.

    Call arguments, other arguments and attributes are those of `MarginProduct`, without `label_smoothing`.

    Args:
        num_classes: number of classes, at least 2.
        margin: angle to add to the target angle, in [0, pi / 2] radians.
        scale: scale of the logits, above 0.
        momentum: weight of the previous mean of target cosines in each training step, in [0, 1).

    References:
        - [CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
          Recognition](https://arxiv.org/abs/2004.00288)
    """

    def __init__(self, num_classes, *, margin=0.5, scale=64.0, momentum=0.99, **kwargs):
        margin, negatives = CombinedMargin(m2=check_angle("margin", margin)), CurricularNegatives(momentum)
        super().__init__(num_classes, margin=margin, scale=scale, negatives=negatives, **kwargs)

    def get_config(self):
        config = _without(super().get_config(), "negatives")
        return {**config, "margin": self.margin.m2, **self.negatives.get_config()}


@keras.saving.register_keras_serializable(package="keras_arcface")
class MVSoftmax(MarginProduct):
    """MV-softmax, an ArcFace or CosFace head with `MisclassifiedNegatives`, which weight misclassified examples more.

    MV-AM-Softmax is `MVSoftmax(n, margin=0.35, angular=False)`. The scale in the paper is 32. This implementation
    applies the margin also to target cosines below 0; others do not. Call arguments, other arguments and attributes are
    those of `MarginProduct`, without `label_smoothing`.

    Args:
        num_classes: number of classes, at least 2.
        margin: angle to add, in [0, pi / 2] radians, or amount to subtract from the cosine, in [0, 1].
        weight: weight `t` of hard negatives, at least 1.
        angular: if true, the margin is added to the angle; if false, it is subtracted from the cosine.
        fixed: if true, all hard negatives have the same increase of the cosine.
        scale: scale of the logits, above 0.

    References:
        - [Mis-classified Vector Guided Softmax Loss for Face Recognition](https://arxiv.org/abs/1912.00833)
    """

    def __init__(self, num_classes, *, margin=0.5, weight=1.2, angular=True, fixed=False, scale=64.0, **kwargs):
        negatives = MisclassifiedNegatives(weight, fixed)
        if angular:
            margin = CombinedMargin(m2=check_angle("margin", margin))
        else:
            margin = CombinedMargin(m3=check_cosine("margin", margin))
        super().__init__(num_classes, margin=margin, scale=scale, negatives=negatives, **kwargs)
        self.angular = bool(angular)

    def get_config(self):
        config = _without(super().get_config(), "negatives")
        margin = self.margin.m2 if self.angular else self.margin.m3
        return {**config, "margin": margin, "angular": self.angular, **self.negatives.get_config()}


def _without(config, name):
    return {key: value for key, value in config.items() if key != name}
