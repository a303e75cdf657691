"""SGD as the papers' training code has it."""

import re

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_arcface")
class CoupledSGD(keras.optimizers.Optimizer):
    """SGD whose weight decay is an L2 penalty: it goes through the momentum, as the gradient does.

        velocity = momentum * velocity + gradient + weight_decay * weight
        weight   = weight - learning_rate * velocity

    This is what `torch.optim.SGD(momentum=0.9, weight_decay=5e-4)` does, and what the recipes of ArcFace and CosFace
    mean. Keras' own SGD differs twice: its `weight_decay` is decoupled (`weight -= learning_rate * weight_decay *
    weight`, some ten times weaker at momentum 0.9), and its velocity holds rates of the past, so that a rate that falls
    takes effect some steps later.

    Args:
        learning_rate: a number or a `keras.optimizers.schedules.LearningRateSchedule`, such as those of
            `keras_arcface.training`.
        momentum: in [0, 1).
        weight_decay: factor of the penalty, 0 for none. The papers use 5e-4, 1e-4 for MobileFaceNet.
        nesterov: whether to look ahead along the velocity.
        no_decay: regular expressions; a variable does not decay if one is found in its path, as `"gamma"` is in
            "stem_bn/gamma". The published recipes exclude none.
        name: name of the optimizer.
        **kwargs: of `keras.optimizers.Optimizer`, such as `use_ema`.

    Raises:
        ValueError: for a momentum outside [0, 1), or a negative weight decay.

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.1
        - [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101) tells the two apart
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=False,
        no_decay=(),
        name="coupled_sgd",
        **kwargs,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1). Received: momentum={momentum}")
        if weight_decay is None or not weight_decay >= 0:
            raise ValueError(f"weight_decay must be 0 or above. Received: weight_decay={weight_decay}")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum, self.nesterov, self.no_decay = momentum, nesterov, list(no_decay)
        # Not `weight_decay`: from an attribute of that name Keras would decay decoupled as well.
        self.penalty = weight_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        self._decays = [not any(re.search(pattern, v.path) for pattern in self.no_decay) for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        if self.penalty and self._decays[index]:
            gradient = gradient + self.penalty * variable
        velocity = self.momentum * self.velocities[index] + gradient
        self.assign(self.velocities[index], velocity)
        step = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * step)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.penalty,
            "nesterov": self.nesterov,
            "no_decay": self.no_decay,
        }
