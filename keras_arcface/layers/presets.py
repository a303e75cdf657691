"""Presets of `MarginProduct` with the margins and defaults of ArcFace, CosFace and SphereFace."""

import keras

from keras_arcface.layers.margin_product import MarginProduct
from keras_arcface.margins import CombinedMargin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import check_cosine
from keras_arcface.margins.base import check_factor


@keras.saving.register_keras_serializable(package="keras_arcface")
@keras.saving.register_keras_serializable(package="keras_arcface", name="ArcMarginProduct")  # loads under the alias too
class ArcFace(MarginProduct):
    """ArcFace head, with an additive angular margin: `scale * cos(theta + margin)` for the target class.

    It is the usual choice for face recognition. `ArcMarginProduct` is an alias. Attributes and calls are those of
    `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: angle to add to the target angle, in [0, pi / 2] radians.
        scale: scale of the logits, above 0. The papers use 64, and about 30 for few classes.
        **kwargs: other arguments of `MarginProduct`, such as `warmup_steps`, `sub_centers` or `sample_rate`.

    Raises:
        ValueError: if an argument is out of its range, such as a margin in degrees, or for an input that
            `MarginProduct` refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        Train an embedder:

        >>> model = keras_arcface.RecognitionModel(make_embedder(MobileFaceNet(), dim=128), ArcFace(num_classes=1000))
        >>> model.compile(optimizer="adam")

        The margin reduces the logit of the target class, here `10 * cos(0 + 0.5)` instead of `10 * cos(0)`:

        >>> head = ArcFace(num_classes=3, margin=0.5, scale=10.0, centers_initializer="identity")
        >>> embedding = np.array([[1.0, 0.0, 0.0]])
        >>> print(np.round(head(embedding), 2))
        [[10.  0.  0.]]
        >>> print(np.round(head(embedding, np.array([0])), 2))
        [[8.78 0.   0.  ]]

    References:
        - [ArcFace: Additive Angular Margin Loss for Deep Face Recognition](https://arxiv.org/abs/1801.07698)
    """

    def __init__(self, num_classes, *, margin=0.5, scale=64.0, **kwargs):
        super().__init__(num_classes, margin=CombinedMargin(m2=check_angle("margin", margin)), scale=scale, **kwargs)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin.m2}


@keras.saving.register_keras_serializable(package="keras_arcface")
@keras.saving.register_keras_serializable(package="keras_arcface", name="CosMarginProduct")  # loads under the alias too
class CosFace(MarginProduct):
    """CosFace head, with an additive cosine margin: `scale * (cos(theta) - margin)` for the target class.

    The penalty is the same at every angle. `CosMarginProduct` is an alias. Attributes and calls are those of
    `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: amount to subtract from the target cosine, in [0, 1].
        scale: scale of the logits, above 0.
        **kwargs: other arguments of `MarginProduct`, such as `warmup_steps`, `sub_centers` or `sample_rate`.

    Raises:
        ValueError: if an argument is out of its range, or for an input that `MarginProduct` refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        >>> head = CosFace(num_classes=3, margin=0.35, scale=10.0, centers_initializer="identity")
        >>> embedding = np.array([[1.0, 0.0, 0.0]])
        >>> print(np.round(head(embedding, np.array([0])), 2))  # 10 * (1 - 0.35)
        [[6.5 0.  0. ]]

    References:
        - [CosFace: Large Margin Cosine Loss for Deep Face Recognition](https://arxiv.org/abs/1801.09414)
    """

    def __init__(self, num_classes, *, margin=0.35, scale=64.0, **kwargs):
        super().__init__(num_classes, margin=CombinedMargin(m3=check_cosine("margin", margin)), scale=scale, **kwargs)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin.m3}


@keras.saving.register_keras_serializable(package="keras_arcface")
@keras.saving.register_keras_serializable(
    package="keras_arcface", name="SphereMarginProduct"
)  # loads under the alias too
class SphereFace(MarginProduct):
    """SphereFace head, with a multiplicative angular margin: `scale * psi(margin * theta)` for the target class.

    This is the form in the comparison of the ArcFace paper, with normalized embeddings and a fixed scale, where a
    margin of 1.35 works best. The SphereFace paper does not normalize embeddings and uses a margin of 4; that form is
    `ASoftmax`. `SphereMarginProduct` is an alias. Attributes and calls are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: factor on the target angle, in [1, 10].
        scale: scale of the logits, above 0.
        **kwargs: other arguments of `MarginProduct`, such as `warmup_steps`, `sub_centers` or `sample_rate`.

    Raises:
        ValueError: if an argument is out of its range, or for an input that `MarginProduct` refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        The penalty increases with the angle, and is 0 at the center of the class:

        >>> head = SphereFace(num_classes=3, margin=1.35, scale=10.0, centers_initializer="identity")
        >>> embeddings = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
        >>> print(np.round(head(embeddings, np.array([0, 0])), 2))
        [[10.    0.    0.  ]
         [ 6.46  6.    0.  ]]

    References:
        - [SphereFace: Deep Hypersphere Embedding for Face Recognition](https://arxiv.org/abs/1704.08063)
    """

    def __init__(self, num_classes, *, margin=1.35, scale=64.0, **kwargs):
        super().__init__(num_classes, margin=CombinedMargin(m1=check_factor("margin", margin)), scale=scale, **kwargs)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin.m1}


ArcMarginProduct = ArcFace
CosMarginProduct = CosFace
SphereMarginProduct = SphereFace
