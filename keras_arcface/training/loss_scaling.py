"""Loss scaling that detects overflows on all replicas."""

import keras

from keras_arcface import _replicas


@keras.saving.register_keras_serializable(package="keras_arcface")
class SyncedLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """`keras.optimizers.LossScaleOptimizer` that detects overflows on all replicas.

    Under the dtype policy mixed_float16, the optimizer of Keras checks only the gradients of the first replica: an
    overflow on another replica makes all weights infinite (Keras 3.15). This one sums the gradients over the replicas
    before it checks them. With one device both are equal. It has the same arguments.

    >>> optimizer = SyncedLossScaleOptimizer(CoupledSGD(0.1))
    """

    def apply(self, grads, trainable_variables=None):
        present = [index for index, gradient in enumerate(grads) if gradient is not None]
        sums = _replicas.sum_gradients([grads[index] for index in present])
        share = 1 / _replicas.num_replicas()  # the inner optimizer sums over the replicas again
        grads = list(grads)
        for index, gradient in zip(present, sums, strict=True):
            grads[index] = gradient * share
        super().apply(grads, trainable_variables)
