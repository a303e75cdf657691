"""UniFace head, with one-vs-rest sigmoid losses and a learned threshold."""

import math

import keras
from keras import ops

from keras_arcface._arguments import check_number
from keras_arcface.layers.chunked import reductions
from keras_arcface.layers.margin_product import MarginProduct
from keras_arcface.margins import CombinedMargin
from keras_arcface.margins.base import check_cosine


@keras.saving.register_keras_serializable(package="keras_arcface")
class UniFace(MarginProduct):
    """UniFace head, with a learned threshold between the cosines to target classes and those to all other classes.

    The loss of an example is `softplus(bias - s * (cos(target) - margin))` plus `negatives_weight` times the sum of
    `softplus(s * cos(other) - bias)`, the unified cross-entropy with a margin. `bias / s` is the threshold. All classes
    share it, which resembles verification, where one threshold applies to all pairs.

    Attributes and calls are those of `MarginProduct`. `call` subtracts the bias from the logits. The logits cannot
    train the head in a functional model, because a softmax over them is the loss of CosFace.

    Args:
        num_classes: number of classes, at least 2.
        margin: amount to subtract from the target cosine, in [0, 1].
        scale: scale of the logits, above 0.
        negatives_weight: weight of the other classes, above 0.
        **kwargs: other arguments of `MarginProduct` except `label_smoothing` and `negatives`.

    Attributes:
        bias: scalar weight. Its initial value is `log(10 * num_classes * sample_rate)`, as in the published code. At
            right angles, the gradient of all other classes together is then a tenth of that of the target class.

    Raises:
        ValueError: if an argument is out of its range, `label_smoothing` or `negatives` are given, for an input that
            `MarginProduct` refuses, or for a call with labels in a functional model or with `training=True`.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        >>> head = UniFace(num_classes=1000)
        >>> head.build((None, 128))
        >>> print(round(float(head.bias), 2), round(float(head.bias) / head.scale, 2))  # the bias and the threshold
        9.21 0.14

    References:
        - [UniFace: Unified Cross-Entropy Loss for Deep Face Recognition](https://github.com/CVI-SZU/UniFace), ICCV 2023
    """

    def __init__(self, num_classes, *, margin=0.4, scale=64.0, negatives_weight=1.0, **kwargs):
        for name in ("label_smoothing", "negatives"):
            if kwargs.get(name):
                raise ValueError(f"{name} must be omitted with UniFace. Received: {name}={kwargs[name]!r}")
        check_number("negatives_weight", negatives_weight, lambda weight: weight > 0, "above 0")
        super().__init__(num_classes, margin=CombinedMargin(m3=check_cosine("margin", margin)), scale=scale, **kwargs)
        self.negatives_weight = float(negatives_weight)

    def build(self, embeddings_shape, labels_shape=None):
        super().build(embeddings_shape, labels_shape)
        self.bias = self.add_weight(
            name="bias", shape=(), initializer=keras.initializers.Constant(self.initial_loss_inputs()["bias"])
        )

    def call(self, embeddings, labels=None, training=None):
        """Computes the logits, with the bias subtracted.

        Args:
            embeddings: float tensor `(batch, dim)`, not normalized; or `[embeddings, labels]`.
            labels: integer tensor `(batch,)` or `(batch, 1)`, or None.
            training: if true, the call is a training step, which updates the state of the head.

        Returns:
            `(batch, num_classes)` float32 logits, with the margin if labels are given.

        Raises:
            ValueError: for a call with labels in a functional model or with `training=True`, or without labels and with
                `training=True`.
        """
        return super().call(embeddings, labels, training=training) - self.bias

    def missing_from_logits(self):
        return "the one-vs-rest loss of UniFace"

    def make_reductions(self):
        return {
            "softplus_sum": reductions.SoftplusSum(self.ignored_above),
            "sigmoid_sum": reductions.SigmoidSum(self.ignored_above),
            "target": reductions.TargetCosine(),
            "highest": reductions.HighestCosine(),
        }

    def loss_inputs(self):
        return {"bias": ops.convert_to_tensor(self.bias)}

    def initial_loss_inputs(self):
        return {"bias": math.log(10 * self.num_classes * self.sample_rate)}

    def combine(self, results, penalized, inputs, num_classes):
        bias = inputs["bias"]
        # The bias is a constant in the reductions. The gradient of the sum with respect to it is minus the sigmoid sum.
        negatives = results["softplus_sum"] + (ops.stop_gradient(bias) - bias) * results["sigmoid_sum"]
        return ops.softplus(bias - inputs["scale"] * penalized) + self.negatives_weight * negatives

    def get_config(self):
        config = {**super().get_config(), "margin": self.margin.m3, "negatives_weight": self.negatives_weight}
        del config["label_smoothing"], config["negatives"]
        return config
