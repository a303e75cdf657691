"""Keras' BatchNormalization and PReLU, with faster training by TensorFlow on a CPU.

The classes keep Keras' names: the paths in a weights file are made of them.
"""

import keras
from keras import layers
from keras import ops

from keras_arcface.backbones import kernels


@keras.saving.register_keras_serializable(package="keras_arcface")
class BatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, whose batch statistics come from TensorFlow's fused operation on a CPU.

    Arguments, weights and results are Keras'. What the operation cannot do falls back to Keras' own computation: masks,
    synchronized statistics, renormalization, no scale or no offset, float64, another axis than the last of four.

    References:
        - [Batch Normalization](https://arxiv.org/abs/1502.03167)
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and mask is None and self._can_fuse(inputs)):
            return super().call(inputs, training=training, mask=mask)
        gamma, beta = ops.cast(self.gamma, "float32"), ops.cast(self.beta, "float32")
        outputs, mean, variance = kernels.batch_norm(inputs, gamma, beta, self.epsilon)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + ops.cast(batch, moving.dtype) * (1 - self.momentum))
        return outputs

    def _can_fuse(self, inputs):
        return (
            kernels.available()
            and self.scale
            and self.center
            and not self.synchronized
            and not self.renorm
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype) in ("float16", "bfloat16", "float32")
        )


@keras.saving.register_keras_serializable(package="keras_arcface")
class PReLU(layers.PReLU):
    """`keras.layers.PReLU`, trained by a kernel that XLA fuses, with TensorFlow on a CPU.

    Arguments, weights and results are Keras'; at exactly 0 the slope is `alpha`, where Keras has 0.

    References:
        - [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852)
    """

    def call(self, inputs, training=None):
        if not (training and kernels.available()):
            return super().call(inputs)
        return kernels.prelu(inputs, ops.cast(self.alpha, inputs.dtype), self.shared_axes or ())
