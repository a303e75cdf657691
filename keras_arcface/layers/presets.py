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
    """ArcFace, with an additive angular margin: `scale * cos(theta + margin)` for the target class.

    `ArcMarginProduct` is an alias. Call arguments, other arguments and attributes are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: angle to add to the target angle, in [0, pi / 2] radians.
        scale: scale of the logits, above 0.

    >>> head = ArcFace(num_classes=10)
    >>> logits = head(np.random.rand(4, 8), np.array([0, 1, 2, 3]))
    >>> tuple(logits.shape)
    (4, 10)

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
    """CosFace, with an additive cosine margin: `scale * (cos(theta) - margin)` for the target class.

    `CosMarginProduct` is an alias. Call arguments, other arguments and attributes are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: amount to subtract from the target cosine, in [0, 1].
        scale: scale of the logits, above 0.

    >>> head = CosFace(num_classes=10, margin=0.2, scale=30)

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
    """SphereFace, with a multiplicative angular margin: `scale * psi(margin * theta)` for the target class.

    `SphereMarginProduct` is an alias. This is the form in the comparison of the ArcFace paper, with
    normalized embeddings and a fixed scale, where 1.35 works best. The SphereFace paper does not normalize embeddings
    and uses 4 (`ASoftmax`). Call arguments, other arguments and attributes are those of `MarginProduct`.

    Args:
        num_classes: number of classes, at least 2.
        margin: factor on the target angle, in [1, 10].
        scale: scale of the logits, above 0.

    >>> head = SphereFace(num_classes=10)

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
