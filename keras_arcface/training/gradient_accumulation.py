"""Gradient accumulation and gradient clipping over all replicas."""

import re
from typing import Any

import keras
from keras import ops

from keras_arcface import _arguments
from keras_arcface import _private_api
from keras_arcface import _replicas


@keras.saving.register_keras_serializable(package="keras_arcface")
class GradientAccumulationOptimizer(keras.optimizers.Optimizer):
    """Optimizer that accumulates gradients, clips them by their global norm, and passes them to another optimizer.

    Use it for batches that do not fit into memory, and to clip gradients as arcface_torch does. The optimizers of Keras
    clip and accumulate the gradients of each replica separately, so that training on two replicas differs from training
    on one device, and accumulation fails. This optimizer first sums the gradients over the replicas.

    The iterations of the inner optimizer are updates, not steps, so its schedule, weight decay and moving averages do
    not depend on the accumulation. BatchNorm statistics are those of the batch of one step.

    Args:
        inner_optimizer: optimizer that updates the weights, for example a `keras.optimizers.MultiOptimizer`.
        accumulation_steps: number of steps per update. An update uses the mean of their gradients.
        clip_norm: maximum global L2 norm of the gradients of all clipped variables; None for no clipping.
        clip: regular expression of the paths of clipped variables. The default matches all variables, and
            `"^(?!.*head/)"` excludes those of a layer named `head`.
        name: name of the optimizer.

    Raises:
        ValueError: if `accumulation_steps` is below 1, `clip_norm` is not above 0, or `clip` matches no variable.
        TypeError: if `inner_optimizer` is not an optimizer, or is a `LossScaleOptimizer`, which must be the outer one.

    Examples:
        >>> optimizer = GradientAccumulationOptimizer(keras.optimizers.SGD(1.0), accumulation_steps=2)
        >>> weight = keras.Variable(0.0)
        >>> for gradient in (1.0, 3.0, 5.0):
        ...     optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        ...     print(float(weight))
        0.0
        -2.0
        -2.0

        Batches of four steps, with a norm of at most 5, as in arcface_torch:

        >>> model.compile(GradientAccumulationOptimizer(CoupledSGD(0.1), accumulation_steps=4, clip_norm=5.0))

    References:
        - [arcface_torch](https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch) clips the
          backbone, but not the head, at a norm of 5
    """

    def __init__(
        self, inner_optimizer, accumulation_steps=1, clip_norm=None, clip="", name="gradient_accumulation_optimizer"
    ):
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer) or isinstance(
            inner_optimizer, keras.optimizers.LossScaleOptimizer
        ):
            raise TypeError(
                "inner_optimizer must be a Keras optimizer other than LossScaleOptimizer. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        _arguments.check_integer("accumulation_steps", accumulation_steps, 1)
        if clip_norm is not None:
            _arguments.check_number("clip_norm", clip_norm, lambda norm: norm > 0, "above 0, or None")
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.accumulation_steps, self.clip_norm, self.clip = accumulation_steps, clip_norm, clip
        self.accumulators: list = []

    def build(self, variables):
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)
        self._is_clipped = [re.search(self.clip, variable.path) is not None for variable in variables]
        if self.clip_norm is not None and not any(self._is_clipped):
            raise ValueError(
                f"clip must match the path of a variable, such as {variables[0].path!r}. Received: clip={self.clip!r}"
            )
        if self.accumulation_steps > 1:
            self.accumulators = self.add_optimizer_variables(variables, "gradient_accumulator")

    @property
    def optimizers(self):
        """Optimizers that have moving averages, which `keras.callbacks.SwapEMAWeights` reads."""
        if isinstance(self.inner_optimizer, keras.optimizers.MultiOptimizer):
            return self.inner_optimizer.optimizers
        return [self.inner_optimizer]

    @property
    def variables(self):
        """Variables of this optimizer, followed by those of the inner optimizer."""
        return self._own_variables + self.inner_optimizer.variables

    @property
    def _own_variables(self):
        return super().variables

    @property
    def iterations(self):
        """Number of updates of the inner optimizer, not of steps."""
        return self.inner_optimizer.iterations

    @property
    def _steps(self):
        return super().iterations

    @property
    def learning_rate(self):
        """Learning rate of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(list(trainable_variables))
        variables = _private_api.variables_to_update(self) if trainable_variables is None else list(trainable_variables)
        grads = [ops.zeros(v.shape, v.dtype) if g is None else g for g, v in zip(grads, variables, strict=True)]
        grads = _replicas.sum_gradients(grads)
        share = 1 / _replicas.num_replicas()  # the inner optimizer sums over the replicas, too
        if self.accumulation_steps == 1:
            self.inner_optimizer.apply(self._clip(grads, share), variables)
        elif keras.backend.backend() == "tensorflow":
            self._accumulate_in_tensorflow(grads, variables, share)
        else:
            self._accumulate(grads)
            if self._is_update_step():
                self.inner_optimizer.apply(self._clip(self.accumulators, 1 / self.accumulation_steps), variables)
                self._reset_accumulators()
        self._steps.assign_add(1)

    def _accumulate_in_tensorflow(self, grads, variables, share):
        """Accumulates gradients and updates weights outside of the replicas, as TensorFlow requires for conditions."""
        import tensorflow as tf

        def update():
            self.inner_optimizer.apply(self._clip(self.accumulators, share / self.accumulation_steps), variables)

        def update_and_reset(distribution):
            distribution.extended.call_for_each_replica(update)
            for total in self.accumulators:
                distribution.extended.update(total.value, lambda v: v.assign(tf.zeros_like(v)), group=False)

        def accumulate(distribution, grads):
            for total, gradient in zip(self.accumulators, grads, strict=True):
                distribution.extended.update(total.value, lambda v, g: v.assign_add(g), args=(gradient,), group=False)
            tf.cond(self._is_update_step(), lambda: update_and_reset(distribution), lambda: None)

        tf.distribute.get_replica_context().merge_call(accumulate, args=(grads,))

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        if self.accumulation_steps == 1:
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)
        # JAX requires that branches have no side effects. An outer LossScaleOptimizer passes variables, not values.
        values = [ops.convert_to_tensor(value) for value in optimizer_variables]
        count = len(self._own_variables)
        own_values, inner_values = values[:count], values[count:]
        with self._scope(own_values) as scope:
            is_update_step = self._is_update_step()
            self._accumulate(grads)
            self._steps.assign_add(1)
            mean = self._clip(self.accumulators, 1 / self.accumulation_steps)
            accumulated = self._values_in(scope)
        with self._scope(accumulated) as scope:
            self._reset_accumulators()
            reset = self._values_in(scope)

        def update():
            weights, slots = self.inner_optimizer.stateless_apply(inner_values, mean, trainable_variables)
            return list(weights), reset + list(slots)

        return ops.cond(is_update_step, update, lambda: (list(trainable_variables), accumulated + list(inner_values)))

    def _scope(self, values):
        return keras.StatelessScope(state_mapping=list(zip(self._own_variables, values, strict=True)))

    def _values_in(self, scope):
        return [scope.get_current_value(variable) for variable in self._own_variables]

    def _is_update_step(self):
        return ops.equal((self._steps + 1) % self.accumulation_steps, 0)

    def _accumulate(self, grads):
        for total, gradient in zip(self.accumulators, grads, strict=True):
            total.assign_add(gradient)

    def _reset_accumulators(self):
        for total in self.accumulators:
            total.assign(ops.zeros(total.shape, total.dtype))

    def _clip(self, grads, factor):
        """Returns gradients multiplied by a factor, and clipped to a global norm of `clip_norm` over all replicas."""
        grads = [ops.multiply(gradient, factor) for gradient in grads]
        if self.clip_norm is None:
            return grads
        squares = [ops.sum(ops.square(g)) for g, clipped in zip(grads, self._is_clipped, strict=True) if clipped]
        norm = ops.sqrt(sum(squares)) * _replicas.num_replicas()
        factor = self.clip_norm / ops.maximum(norm, self.clip_norm)
        return [g * factor if clipped else g for g, clipped in zip(grads, self._is_clipped, strict=True)]

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "accumulation_steps": self.accumulation_steps,
            "clip_norm": self.clip_norm,
            "clip": self.clip,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        optimizer = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "inner_optimizer": optimizer})
