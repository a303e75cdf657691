"""Loss scaling that detects overflows on all replicas."""

import keras

from keras_arcface import _replicas


@keras.saving.register_keras_serializable(package="keras_arcface")
class SyncedLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Loss-scale optimizer that detects overflows on all replicas.

    Use it under the dtype policy mixed_float16 with several GPUs. There, `keras.optimizers.LossScaleOptimizer` checks
    only the gradients of the first replica, so that an overflow on another replica makes all weights infinite (Keras
    3.15). This optimizer sums the gradients over the replicas before the check. On one device, both are equal. The
    arguments are those of `keras.optimizers.LossScaleOptimizer`: `inner_optimizer`, `initial_scale` (2**15 by default),
    `dynamic_growth_steps` (2000) and `name`.

    Raises:
        ValueError: if an argument is given that belongs to the inner optimizer, such as `use_ema` or `weight_decay`.

    Examples:
        >>> optimizer = SyncedLossScaleOptimizer(CoupledSGD(0.1))
        >>> weight = keras.Variable(1.0)
        >>> optimizer.apply([keras.ops.convert_to_tensor(np.inf)], [weight])  # an overflow
        >>> float(weight), float(optimizer.dynamic_scale)  # no update; the scale was 2**15
        (1.0, 16384.0)
    """

    def apply(self, grads, trainable_variables=None):
        present = [index for index, gradient in enumerate(grads) if gradient is not None]
        sums = _replicas.sum_gradients([grads[index] for index in present])
        share = 1 / _replicas.num_replicas()  # the inner optimizer sums over the replicas, too
        grads = list(grads)
        for index, gradient in zip(present, sums, strict=True):
            grads[index] = gradient * share
        super().apply(grads, trainable_variables)
