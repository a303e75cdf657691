"""Loss scaling that detects overflows on all replicas."""

import keras

from keras_arcface import _replicas


@keras.saving.register_keras_serializable(package="keras_arcface")
class SyncedLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Loss-scale optimizer that detects overflows on all replicas.

    Under the dtype policy mixed_float16, `keras.optimizers.LossScaleOptimizer` checks only the gradients of the first
    replica, so that an overflow on another replica makes all weights infinite (Keras 3.15). This optimizer sums the
    gradients over the replicas before the check. On one device, both are equal. The arguments are those of Keras.

    >>> optimizer = SyncedLossScaleOptimizer(CoupledSGD(0.1))
    """

    def apply(self, grads, trainable_variables=None):
        present = [index for index, gradient in enumerate(grads) if gradient is not None]
        sums = _replicas.sum_gradients([grads[index] for index in present])
        share = 1 / _replicas.num_replicas()  # the inner optimizer sums over the replicas, too
        grads = list(grads)
        for index, gradient in zip(present, sums, strict=True):
            grads[index] = gradient * share
        super().apply(grads, trainable_variables)
