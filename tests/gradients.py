"""Gradients on the current Keras backend."""

import keras
import numpy as np


def value_and_gradients(function, *arrays):
    """Returns the value of a function and its gradients with respect to each argument, as NumPy arrays.

    Args:
        function: Maps float tensors to a scalar tensor.
        arrays: The arguments.
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


def with_centers(head, centers):
    """Builds a head, assigns its centers, and returns it."""
    head.build((None, centers.shape[-1]))
    head.centers.assign(centers)
    return head


def mean_loss_gradients(head, embeddings, centers, labels):
    """Returns the gradients of the mean `head.loss` with respect to the embeddings and the centers."""
    backend = keras.backend.backend()
    if backend == "jax":

        def loss(embeddings, centers):
            with keras.StatelessScope(state_mapping=[(head.centers, centers)]):
                return keras.ops.mean(head.loss(labels, embeddings))

        return value_and_gradients(loss, embeddings, centers)[1]
    if backend == "torch":
        embeddings = keras.ops.convert_to_tensor(embeddings).requires_grad_()
        head.centers.value.grad = None
        keras.ops.mean(head.loss(labels, embeddings)).backward()
        return [gradient.numpy(force=True) for gradient in (embeddings.grad, head.centers.value.grad)]
    import tensorflow as tf

    embeddings = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = keras.ops.mean(head.loss(labels, embeddings))
    return [np.asarray(gradient) for gradient in tape.gradient(loss, [embeddings, head.centers.value])]
