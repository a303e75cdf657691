"""Adam with coupled weight decay."""

import keras
from keras import ops

from keras_arcface.training.coupled_decay import CoupledDecay


@keras.saving.register_keras_serializable(package="keras_arcface")
class CoupledAdam(CoupledDecay, keras.optimizers.Adam):
    """Adam with coupled weight decay, an L2 penalty whose gradient is part of both moments.

    This is `torch.optim.Adam(weight_decay=...)`, which training code for person re-identification uses. The gradient
    of the penalty is normalized with that of the loss, so that the decay of a weight depends little on `weight_decay`
    and much on the gradient of the loss. The `weight_decay` of `keras.optimizers.Adam` and `AdamW` is decoupled
    (`weight -= learning_rate * weight_decay * weight`).

    Args:
        learning_rate: number or `keras.optimizers.schedules.LearningRateSchedule`, such as `StepSchedule`.
        weight_decay: factor of the L2 penalty, at least 0.
        no_decay: regular expressions of the paths of variables without weight decay.
        epsilon: constant that is added to the square root of the second moment, by default that of PyTorch.
        name: name of the optimizer.
        **kwargs: arguments of `keras.optimizers.Adam`, such as `beta_1` and `use_ema`.

    Raises:
        ValueError: if the weight decay is negative.

    Examples:
        The first step of Adam has the length of the learning rate for every gradient, here that of the penalty:

        >>> optimizer = CoupledAdam(learning_rate=0.1, weight_decay=5e-4)
        >>> weights = keras.Variable([2.0, -0.5])
        >>> optimizer.apply([keras.ops.zeros(2)], [weights])
        >>> print(np.round(weights.value, 3))
        [ 1.9 -0.4]

    References:
        - [Adam](https://arxiv.org/abs/1412.6980)
        - [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101) compares coupled and decoupled decay
    """

    def __init__(self, learning_rate=1e-3, weight_decay=5e-4, no_decay=(), epsilon=1e-8, name="coupled_adam", **kwargs):
        super().__init__(learning_rate=learning_rate, epsilon=epsilon, name=name, **kwargs)
        self._set_decay(weight_decay, no_decay)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._find_decayed(variables)

    def update_step(self, gradient, variable, learning_rate):
        gradient = self._add_decay(ops.cast(gradient, variable.dtype), variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), **self._decay_config()}
