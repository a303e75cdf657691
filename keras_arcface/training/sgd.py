"""SGD with coupled weight decay."""

import keras
from keras import ops

from keras_arcface import _arguments
from keras_arcface import _private_api
from keras_arcface.training.coupled_decay import CoupledDecay


@keras.saving.register_keras_serializable(package="keras_arcface")
class CoupledSGD(CoupledDecay, keras.optimizers.Optimizer):
    """SGD with coupled weight decay, an L2 penalty whose gradient is part of the momentum.

        velocity = momentum * velocity + gradient + weight_decay * weight
        weight   = weight - learning_rate * velocity

    This equals `torch.optim.SGD(momentum=0.9, weight_decay=5e-4)`, which the training code of ArcFace and CosFace uses.
    The SGD of Keras differs in two ways. Its `weight_decay` is decoupled (`weight -= learning_rate * weight_decay *
    weight`), which is about ten times weaker at momentum 0.9. Its velocity contains past learning rates, so that a
    lower rate has its full effect only some steps later.

    Args:
        learning_rate: number or `keras.optimizers.schedules.LearningRateSchedule`, such as `StepSchedule`.
        momentum: momentum, in [0, 1).
        weight_decay: factor of the L2 penalty, at least 0. The papers use 5e-4, and 1e-4 for MobileFaceNet.
        nesterov: if true, uses Nesterov momentum.
        no_decay: regular expressions of the paths of variables without weight decay. "gamma" matches "stem_bn/gamma",
            for example. The published recipes exclude no variables.
        name: name of the optimizer.
        **kwargs: arguments of `keras.optimizers.Optimizer`, such as `use_ema`.

    Raises:
        ValueError: if the momentum is outside of [0, 1), or the weight decay is negative.

    Examples:
        >>> optimizer = CoupledSGD(learning_rate=0.1, momentum=0.9, weight_decay=0.5)
        >>> weight = keras.Variable(1.0)
        >>> for _ in range(2):
        ...     optimizer.apply([keras.ops.zeros(())], [weight])
        >>> round(float(weight), 4)  # 1 - 0.1 * 0.5 - 0.1 * (0.9 * 0.5 + 0.5 * 0.95)
        0.8575

        The optimizer of the paper, without weight decay of BatchNorm:

        >>> schedule = StepSchedule(0.1, boundaries=[20_000, 28_000])
        >>> model.compile(CoupledSGD(schedule, no_decay=["gamma", "beta"]))

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.1
        - [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101) compares coupled and decoupled decay
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
        _arguments.check_number("momentum", momentum, lambda value: 0 <= value < 1, "in [0, 1)")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum, self.nesterov = momentum, nesterov
        self._set_decay(weight_decay, no_decay)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        self._find_decayed(variables)

    def update_step(self, gradient, variable, learning_rate):
        index = _private_api.variable_index(self, variable)
        gradient = self._add_decay(ops.cast(gradient, variable.dtype), variable)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        if keras.backend.backend() == "tensorflow" and self._apply_fused(
            gradient, variable, self.velocities[index], learning_rate
        ):
            return
        velocity = self.momentum * self.velocities[index] + gradient
        self.assign(self.velocities[index], velocity)
        step = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * step)

    def _apply_fused(self, gradient, variable, velocity, learning_rate) -> bool:
        """Applies the update by one TensorFlow operation, with fewer passes over memory. Returns whether it could."""
        import tensorflow as tf

        if tf.distribute.has_strategy():  # a variable has one handle per replica
            return False
        tf.raw_ops.ResourceApplyMomentum(
            var=_handle(variable),
            accum=_handle(velocity),
            lr=learning_rate,
            grad=gradient,
            momentum=ops.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
            use_locking=False,
        )
        return True

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            **self._decay_config(),
        }


def _handle(variable):
    """Returns the resource of a Keras or TensorFlow variable."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
