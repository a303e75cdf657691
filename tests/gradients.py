"""Gradients on whichever backend Keras runs."""

import keras
import numpy as np


def value_and_gradients(function, *arrays):
    """A function of tensors -> its value and its gradients by each argument, as numpy arrays.

    Args:
        function: float tensors -> a scalar tensor.
        arrays: its arguments.
    """
    if keras.backend.backend() == "jax":
        import jax

        value, gradients = jax.value_and_grad(function, argnums=tuple(range(len(arrays))))(
            *map(jax.numpy.asarray, arrays)
        )
    else:
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        gradients = tape.gradient(value, tensors)
    return np.asarray(value), [np.asarray(gradient) for gradient in gradients]
