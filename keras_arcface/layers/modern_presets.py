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
    """Norm-softmax head, a softmax of scaled cosines without a margin.

    It is the baseline of heads with a margin. Attributes and calls are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        scale: scale of the logits, above 0.
        **kwargs: other arguments of `MarginProduct`, such as `sub_centers` or `sample_rate`.

    Raises:
        ValueError: if an argument is out of its range, or for an input that `MarginProduct` refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        Labels do not change the logits, so this head can also be the last layer of a `keras.Sequential`:

        >>> head = NormSoftmax(num_classes=3, scale=10.0, centers_initializer="identity")
        >>> embedding = np.array([[0.8, 0.6, 0.0]])
        >>> print(np.round(head(embedding, np.array([0])), 2))
        [[8. 6. 0.]]

    References:
        - [NormFace: L2 Hypersphere Embedding for Face Verification](https://arxiv.org/abs/1704.06369)
    """

    def __init__(self, num_classes, *, scale=64.0, **kwargs):
        super().__init__(num_classes, margin=None, scale=scale, **kwargs)

    def get_config(self):
        return _without(super().get_config(), "margin")


@keras.saving.register_keras_serializable(package="keras_arcface")
class AdaFace(MarginProduct):
    """AdaFace head, with an `AdaptiveMargin` that depends on the norm of the embedding, an estimate of image quality.

    Use it for training images of mixed quality, such as surveillance and web photos together. Hard examples have more
    influence if their norm is large, and less if it is small, so that unrecognizable images disturb the training less.
    Attributes and calls are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: margin `m` of the paper, in [0, 1].
        concentration: concentration `h` of the paper, above 0. A larger value spreads the margins more.
        momentum: weight of the previous statistics of norms in each training step, in [0, 1).
        scale: scale of the logits, above 0.
        **kwargs: other arguments of `MarginProduct`, such as `warmup_steps`, `sub_centers` or `sample_rate`.

    Raises:
        ValueError: if an argument is out of its range, or for an input that `MarginProduct` refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        Of two embeddings in the same direction, with norms of 10 and 100, the second has the larger penalty in the
        logit of the target class, because it is far from its center. The running mean and standard deviation of the
        norms start at 20 and 100.

        >>> head = AdaFace(num_classes=3, scale=10.0, centers_initializer="identity")
        >>> embeddings = np.array([[8.0, 6.0, 0.0], [80.0, 60.0, 0.0]])
        >>> print(np.round(head(embeddings, np.array([0, 0])), 2))
        [[4.05 6.   0.  ]
         [3.53 6.   0.  ]]

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
    """MagFace head, with a `MagnitudeMargin` that increases with the norm of the embedding.

    A regularizer increases the norms, and after training the norm of an embedding measures the quality of its image.
    The embedder must be able to change its norms: use `make_embedder(..., scaled=True)`. The regularizer is only part
    of the loss, so a functional model cannot train MagFace by its logits. Attributes and calls are those of
    `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        min_margin: margin at the norm `min_norm` and below, in radians, at least 0.
        max_margin: margin at the norm `max_norm` and above, in radians, from `min_margin` to `pi / 2`.
        min_norm: norm with the margin `min_margin`, above 0.
        max_norm: norm with the margin `max_margin`, above `min_norm`.
        weight: weight of the regularizer, at least 0.
        scale: scale of the logits, above 0.
        **kwargs: other arguments of `MarginProduct`, such as `warmup_steps`, `sub_centers` or `sample_rate`.

    Raises:
        ValueError: if an argument is out of its range, for an input that `MarginProduct` refuses, or for a call with
            labels in a functional model or with `training=True`.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        >>> embedder = make_embedder(MobileFaceNet(), dim=128, scaled=True)
        >>> model = keras_arcface.RecognitionModel(embedder, MagFace(num_classes=1000))

        An embedding of a larger norm has a larger margin, and therefore a smaller logit of the target class:

        >>> head = MagFace(num_classes=3, scale=10.0, centers_initializer="identity")
        >>> embeddings = np.array([[8.0, 6.0, 0.0], [80.0, 60.0, 0.0]])
        >>> print(np.round(head(embeddings, np.array([0, 0])), 2))
        [[4.59 6.   0.  ]
         [1.62 6.   0.  ]]

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
    """ElasticFace head, with an `ElasticMargin` that is drawn at random for each example and training step.

    ElasticFace-Cos is `ElasticFace(num_classes, margin=0.35, angular=False)`. Outside of training, the margin is its
    mean. Attributes and calls are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: mean of the margins, an angle in [0, pi / 2] radians or a cosine in [0, 1].
        std: standard deviation of the margins, in the same range as `margin`. With `sort=True`, the paper uses 0.0175
            for angles and 0.025 for cosines.
        angular: if true, the margin is added to the angle (ElasticFace-Arc); if false, it is subtracted from the
            cosine.
        sort: if true, examples farther from their center get larger margins within a batch (ElasticFace+).
        scale: scale of the logits, above 0.
        **kwargs: other arguments of `MarginProduct`, such as `warmup_steps`, `sub_centers` or `sample_rate`.

    Raises:
        ValueError: if an argument is out of its range, or for an input that `MarginProduct` refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        In training, two examples at the same angle have different margins. `sample_seed` determines them:

        >>> head = ElasticFace(num_classes=3, scale=10.0, centers_initializer="identity", sample_seed=1)
        >>> embeddings, labels = np.array([[1.0, 0.0, 0.0]] * 2), np.array([0, 0])
        >>> logits = np.asarray(head(embeddings, labels, training=True))
        >>> bool(logits[0, 0] == logits[1, 0])
        False
        >>> print(np.round(head(embeddings, labels), 2))  # 10 * cos(0 + 0.5)
        [[8.78 0.   0.  ]
         [8.78 0.   0.  ]]

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
    """CurricularFace head, an `ArcFace` head with `CurricularNegatives`, whose weight increases during training.

    Training starts with easy examples and shifts to hard ones as the embeddings improve. Attributes and calls are those
    of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: angle to add to the target angle, in [0, pi / 2] radians.
        scale: scale of the logits, above 0.
        momentum: weight of the previous mean of target cosines in each training step, in [0, 1).
        **kwargs: other arguments of `MarginProduct` except `negatives` and `label_smoothing`.

    Raises:
        ValueError: if an argument is out of its range, `label_smoothing` is not 0, or for an input that `MarginProduct`
            refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        The second class is a hard negative, because its cosine is above the target cosine with the margin. At the start
        of training its weight is low, `cosine * (0 + cosine)`:

        >>> head = CurricularFace(num_classes=3, scale=10.0, centers_initializer="identity")
        >>> embedding = np.array([[0.8, 0.6, 0.0]])
        >>> print(np.round(head(embedding, np.array([0])), 2))
        [[4.14 3.6  0.  ]]

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
    """MV-softmax head, an `ArcFace` or `CosFace` head with `MisclassifiedNegatives`, which weight hard negatives more.

    MV-AM-Softmax is `MVSoftmax(num_classes, margin=0.35, angular=False)`. The scale in the paper is 32. This
    implementation applies the margin also to target cosines below 0; others do not. Attributes and calls are those of
    `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: angle to add, in [0, pi / 2] radians, or amount to subtract from the cosine, in [0, 1].
        weight: weight `t` of hard negatives, at least 1.
        angular: if true, the margin is added to the angle; if false, it is subtracted from the cosine.
        fixed: if true, all hard negatives have the same increase of the cosine; if false, it increases with the cosine.
        scale: scale of the logits, above 0.
        **kwargs: other arguments of `MarginProduct` except `negatives` and `label_smoothing`.

    Raises:
        ValueError: if an argument is out of its range, `label_smoothing` is not 0, or for an input that `MarginProduct`
            refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        The second class is a hard negative, because its cosine is above the target cosine with the margin. Its logit
        increases from 6 to `10 * (1.2 * 0.6 + 1.2 - 1)`:

        >>> head = MVSoftmax(num_classes=3, weight=1.2, scale=10.0, centers_initializer="identity")
        >>> embedding = np.array([[0.8, 0.6, 0.0]])
        >>> print(np.round(head(embedding, np.array([0])), 2))
        [[4.14 9.2  0.  ]]

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
