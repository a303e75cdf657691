"""A head without class centers, for losses that compare the images of a batch with each other."""

import keras
from keras import ops

from keras_arcface.layers import vectors
from keras_arcface.layers.base import Head


@keras.saving.register_keras_serializable(package="keras_arcface")
class EmbeddingHead(Head):
    """Lets `RecognitionModel` train with a loss of labels and embeddings, such as `TripletLoss` or Keras' `Circle`.

    The loss gets L2-normalized float32 embeddings and must return one value per example. The head has no weights, and
    labels are any integers from 0 on. Batches should have several images of each person:
    `load_dataset(..., images_per_class=K)`.

    The figures beside the loss are of the batch too: `accuracy` is the share of examples whose nearest other image is
    of the same person, and `target_angle` the mean angle to the farthest image of the same person, 0 where there is
    none.

    With TensorFlow's MirroredStrategy each replica compares the images of its own part of the batch. `load_dataset`
    puts the images of a person side by side, so where parts hold whole persons only the number of negatives is smaller.
    With `keras.distribution` on JAX the whole batch is compared.

    Keras' `Circle` has the value of the paper's loss. The paper holds the weights of pairs constant in the gradient;
    Keras does not.

    Args:
        loss: a `keras.losses.Loss` whose `call(labels, embeddings)` is `(batch,)`.
        **kwargs: `name` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Call arguments:
        embeddings: float tensor `(batch, dim)`.

    Returns:
        `(batch, dim)` L2-normalized embeddings.

    Raises:
        ValueError: if `loss` is not a Keras loss, or labels are not one integer per embedding. A negative label makes
            the loss NaN.

    >>> head = EmbeddingHead(keras.losses.Circle(gamma=80, margin=0.4))

    References:
        - [Circle Loss](https://arxiv.org/abs/2002.10857)
    """

    def __init__(self, loss, **kwargs):
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(f"loss must be a keras.losses.Loss, such as TripletLoss(). Received: loss={loss!r}")
        super().__init__(**kwargs)
        self.embedding_loss = loss

    def __repr__(self):
        return f"<{type(self).__name__} loss={self.embedding_loss}, name={self.name}, built={self.built}>"

    def build(self, embeddings_shape):
        pass

    def call(self, embeddings):
        return vectors.unit(embeddings)

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and what is worth watching beside it.

        Args:
            labels: integer tensor `(batch,)`, from 0 on.
            embeddings: float tensor `(batch, dim)`.
            training: ignored.

        Returns:
            `(losses, cosines, hits)`: `(batch,)` float32 losses; `(batch,)` float32 cosines to the farthest image of
            the same person, 1 where there is none; `(batch,)` bool, whether the nearest other image is of the same
            person.
        """
        labels, embeddings, valid = self.check_batch(labels, embeddings)
        unit = vectors.unit(embeddings)
        # A new tensor: Keras' Circle marks its own with a mask, by which a mean would leave examples out.
        losses = ops.where(valid, self.embedding_loss.call(labels, unit), float("nan"))
        cosines = ops.clip(ops.stop_gradient(ops.matmul(unit, ops.transpose(unit))), -1.0, 1.0)
        same = ops.equal(ops.expand_dims(labels, 1), ops.expand_dims(labels, 0))
        is_itself = ops.eye(ops.shape(labels)[0], dtype="bool")
        same_person = ops.logical_and(same, ops.logical_not(is_itself))
        farthest = ops.min(ops.where(same_person, cosines, 1.0), axis=1)
        nearest = ops.argmax(ops.where(is_itself, -2.0, cosines), axis=1)
        return losses, farthest, vectors.take_column(same_person, nearest)

    def get_config(self):
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.embedding_loss)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})
