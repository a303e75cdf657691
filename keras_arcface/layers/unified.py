"""A question for every class: is it this person, yes or no?"""

import math

import keras
from keras import ops

from keras_arcface.layers import blocks
from keras_arcface.layers import parts
from keras_arcface.layers.margin_product import MarginProduct
from keras_arcface.margins import CombinedMargin
from keras_arcface.margins.base import check_cosine


@keras.saving.register_keras_serializable(package="keras_arcface")
class UniFace(MarginProduct):
    """UniFace: the cosines to all classes, own and others, are parted by one threshold that is learned.

    The loss of an example is `softplus(bias - s * (cos(own) - margin))` and, times `negatives_weight`, the sum of
    `softplus(s * cos(other) - bias)`: the unified cross-entropy with a margin. `bias / s` is the threshold.

    Call arguments, other arguments and attributes are those of `MarginProduct`; there is no label smoothing and there
    are no `negatives`. Logits have the bias subtracted; a softmax over them, where the head is used in a functional
    model, is CosFace's, and teaches the bias nothing: what is described here is `loss`.

    Args:
        num_classes: number of classes, at least 2.
        margin: amount subtracted from the own cosine, in [0, 1].
        scale: the radius of the hypersphere, above 0.
        negatives_weight: weight of the other classes, above 0.

    Attributes:
        bias: scalar weight. It begins at `log(10 * num_classes * sample_rate)`, as in the published code: at right
            angles all other classes together then pull a tenth as hard as the own one.

    References:
        - [UniFace: Unified Cross-Entropy Loss for Deep Face Recognition](https://github.com/CVI-SZU/UniFace), ICCV 2023
    """

    binary = True

    def __init__(self, num_classes, *, margin=0.4, scale=64.0, negatives_weight=1.0, **kwargs):
        for name in ("label_smoothing", "negatives"):
            if kwargs.get(name):
                raise ValueError(f"UniFace has no {name}. Received: {name}={kwargs[name]!r}")
        parts.check_number("negatives_weight", negatives_weight, lambda weight: weight > 0, "above 0")
        super().__init__(num_classes, margin=CombinedMargin(m3=check_cosine("margin", margin)), scale=scale, **kwargs)
        self.negatives_weight = float(negatives_weight)

    def build(self, embeddings_shape, labels_shape=None):
        super().build(embeddings_shape, labels_shape)
        start = keras.initializers.Constant(math.log(10 * self.num_classes * self.sample_rate))
        self.bias = self.add_weight(name="bias", shape=(), initializer=start)

    def call(self, embeddings, labels=None, training=None):
        return super().call(embeddings, labels, training=training) - self.bias

    def _terms(self, target_cosines, batch):
        return blocks.Terms(ops.zeros_like(batch.norms), ops.zeros(()), self.bias)

    def _losses_of(self, others, target_logits, scale, classes):
        # The sum over the others has no gradient for the bias: it is minus the sum of the sigmoids.
        bias = ops.convert_to_tensor(self.bias)
        negatives = others.log_sum + (ops.stop_gradient(bias) - bias) * others.sum
        return ops.softplus(bias - target_logits) + self.negatives_weight * negatives

    def get_config(self):
        config = {**super().get_config(), "margin": self.margin.m3, "negatives_weight": self.negatives_weight}
        del config["label_smoothing"], config["negatives"]
        return config
