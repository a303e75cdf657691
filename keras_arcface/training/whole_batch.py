"""Optimizers that see the gradient of the whole batch: of every replica, and of several steps.

Keras' optimizers clip, accumulate and look for overflows on each replica's own gradient. Two replicas then no longer
train as one device: each share is clipped by itself, accumulation fails, and under float16 an overflow that the first
replica has not seen makes every weight infinite (Keras 3.15). Here the gradients are summed over the replicas first.
"""

import re

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_arcface")
class WholeBatchOptimizer(keras.optimizers.Optimizer):
    """Clips and accumulates gradients over all replicas, and hands them on to another optimizer.

    >>> optimizer = WholeBatchOptimizer(CoupledSGD(0.1), accumulation_steps=4, clip_norm=5.0, clip="^(?!.*head/)")

    The inner optimizer counts updates, not steps: its schedule, its weight decay and its moving average do not notice
    the accumulation. BatchNorm does: its statistics are those of each step's batch.

    Args:
        optimizer: what updates the weights; a `keras.optimizers.MultiOptimizer` too.
        accumulation_steps: update the weights every so many steps, with the mean of their gradients.
        clip_norm: largest L2 norm of the gradient over all variables that are clipped, together; None for no limit.
        clip: regular expression; a variable is clipped if it is found in its path. By default all are;
            `"^(?!.*head/)"` leaves out what belongs to a layer called `head`.
        name: name of the optimizer.

    Raises:
        ValueError: for less than one accumulation step, a limit that is not above 0, or a pattern found in no
            variable's path.
        TypeError: if the optimizer is none, or a `LossScaleOptimizer` (which goes around this one).

    References:
        - arcface_torch clips its backbone, but not its head, at 5
    """

    def __init__(self, optimizer, accumulation_steps=1, clip_norm=None, clip="", name="whole_batch"):
        if not isinstance(optimizer, keras.optimizers.Optimizer) or isinstance(
            optimizer, keras.optimizers.LossScaleOptimizer
        ):
            raise TypeError(
                "WholeBatchOptimizer expects a Keras optimizer that is not a LossScaleOptimizer. "
                f"Received: optimizer={optimizer!r}"
            )
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1. Received: {accumulation_steps}")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or None. Received: clip_norm={clip_norm}")
        super().__init__(learning_rate=0.0, name=name)
        self.optimizer = optimizer
        self.accumulation_steps, self.clip_norm, self.clip = accumulation_steps, clip_norm, clip
        self.sums = []

    def build(self, variables):
        if self.built:
            return
        self.optimizer.build(variables)
        super().build(variables)
        self._clipped = [re.search(self.clip, variable.path) is not None for variable in variables]
        if self.clip_norm is not None and not any(self._clipped):
            raise ValueError(
                f"clip={self.clip!r} is found in no variable's path, such as {variables[0].path!r}: nothing would be "
                "clipped"
            )
        if self.accumulation_steps > 1:
            self.sums = self.add_optimizer_variables(variables, "sum")

    @property
    def optimizers(self):
        """Those that hold moving averages, for `keras.callbacks.SwapEMAWeights`."""
        return getattr(self.optimizer, "optimizers", [self.optimizer])

    @property
    def variables(self):
        return self._variables + self.optimizer.variables

    @property
    def iterations(self):
        return self.optimizer.iterations

    @property
    def learning_rate(self):
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.optimizer.learning_rate = learning_rate

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(list(trainable_variables))
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        grads = [ops.zeros(v.shape, v.dtype) if g is None else g for g, v in zip(grads, variables, strict=True)]
        grads, share = _over_replicas(grads)
        if self.accumulation_steps == 1:
            self.optimizer.apply(self._clip(grads, share), variables)
        elif keras.backend.backend() == "tensorflow":
            self._accumulate_in_tensorflow(grads, variables, share)
        else:
            for total, gradient in zip(self.sums, grads, strict=True):
                total.assign_add(gradient)
            if self._is_last():
                self.optimizer.apply(self._clip(self.sums, 1 / self.accumulation_steps), variables)
                self._forget()
        self._iterations.assign_add(1)

    def _accumulate_in_tensorflow(self, grads, variables, share):
        """TensorFlow wants what is conditional outside of the replicas."""
        import tensorflow as tf

        def update():
            self.optimizer.apply(self._clip(self.sums, share / self.accumulation_steps), variables)

        def over_all_replicas(distribution, grads):
            for total, gradient in zip(self.sums, grads, strict=True):
                distribution.extended.update(total.value, lambda v, g: v.assign_add(g), args=(gradient,), group=False)
            tf.cond(self._is_last(), lambda: update_and_forget(distribution), lambda: None)

        def update_and_forget(distribution):
            distribution.extended.call_for_each_replica(update)
            for total in self.sums:
                distribution.extended.update(total.value, lambda v: v.assign(tf.zeros_like(v)), group=False)

        tf.distribute.get_replica_context().merge_call(over_all_replicas, args=(grads,))

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        if self.accumulation_steps == 1:
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)
        # Written without side effects, as JAX wants what is conditional.
        # A LossScaleOptimizer around this one passes variables, not their values.
        optimizer_variables = [ops.convert_to_tensor(value) for value in optimizer_variables]
        own, inner = optimizer_variables[: len(self._variables)], optimizer_variables[len(self._variables) :]
        with keras.StatelessScope(state_mapping=list(zip(self._variables, own, strict=True))) as scope:
            is_last = self._is_last()
            for total, gradient in zip(self.sums, grads, strict=True):
                total.assign_add(gradient)
            self._iterations.assign_add(1)
            whole = self._clip(self.sums, 1 / self.accumulation_steps)
            waiting = [scope.get_current_value(v) for v in self._variables]
        with keras.StatelessScope(state_mapping=list(zip(self._variables, waiting, strict=True))) as scope:
            self._forget()
            updated = [scope.get_current_value(v) for v in self._variables]

        def update():
            weights, slots = self.optimizer.stateless_apply(inner, whole, trainable_variables)
            return list(weights), updated + list(slots)

        return ops.cond(is_last, update, lambda: (list(trainable_variables), waiting + list(inner)))

    def _is_last(self):
        return ops.equal((self._iterations + 1) % self.accumulation_steps, 0)

    def _forget(self):
        for total in self.sums:
            total.assign(ops.zeros(total.shape, total.dtype))

    def _clip(self, grads, factor):
        """Gradients times a factor, their norm before the replicas' share limited to `clip_norm`."""
        replicas = _num_replicas()
        grads = [ops.multiply(gradient, factor) for gradient in grads]
        if self.clip_norm is None:
            return grads
        squares = [ops.sum(ops.square(g)) for g, clipped in zip(grads, self._clipped, strict=True) if clipped]
        norm = ops.sqrt(sum(squares)) * replicas
        factor = self.clip_norm / ops.maximum(norm, self.clip_norm)
        return [g * factor if clipped else g for g, clipped in zip(grads, self._clipped, strict=True)]

    def finalize_variable_values(self, var_list):
        self.optimizer.finalize_variable_values(var_list)

    def get_config(self):
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "accumulation_steps": self.accumulation_steps,
            "clip_norm": self.clip_norm,
            "clip": self.clip,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "optimizer": optimizer})


@keras.saving.register_keras_serializable(package="keras_arcface")
class WholeBatchLossScale(keras.optimizers.LossScaleOptimizer):
    """`keras.optimizers.LossScaleOptimizer` that looks for overflows on all replicas.

    Give it to `compile` under the policy mixed_float16 where several GPUs train together; with one device it is Keras'
    own. Takes its arguments.
    """

    def apply(self, grads, trainable_variables=None):
        present = [index for index, gradient in enumerate(grads) if gradient is not None]
        whole, share = _over_replicas([grads[index] for index in present])
        grads = list(grads)
        for index, gradient in zip(present, whole, strict=True):
            grads[index] = gradient * share
        super().apply(grads, trainable_variables)


def _num_replicas():
    if keras.backend.backend() != "tensorflow":
        return 1  # JAX computes gradients of the whole batch in the first place
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _over_replicas(grads):
    """Gives the gradients summed over replicas, and the share of them that each is to hand on, as Keras sums again."""
    replicas = _num_replicas()
    if replicas == 1:
        return grads, 1.0
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, grads), 1 / replicas
