"""Head without class centers, for losses that compare the images of a batch with each other."""

import keras
from keras import ops

from keras_arcface.layers import vectors
from keras_arcface.layers.base import Head


@keras.saving.register_keras_serializable(package="keras_arcface")
class EmbeddingHead(Head):
    """Head for training `RecognitionModel` with a loss of labels and embeddings, such as `TripletLoss` or `Circle`.

    The loss receives L2-normalized float32 embeddings and must return one value per example. The head has no weights,
    and labels can be any integers of at least 0. A batch should contain several images of each person:
    `load_dataset(..., images_per_class=K)`.

    The metrics also refer to the batch: `accuracy` is the fraction of examples whose nearest other image is of the same
    person, and `target_angle` is the mean angle to the farthest image of the same person, or 0 if the batch has no
    other image of the person.

    With the MirroredStrategy of TensorFlow, each replica compares only the images of its part of the batch.
    `load_dataset` places the images of a person next to each other, so each replica has the images of whole persons but
    fewer negatives. With `keras.distribution` on JAX, the whole batch is compared.

    The value of `keras.losses.Circle` is that of the paper. In the paper, the weights of pairs are constants in the
    gradient; in Keras they are not.

    Args:
        loss: a `keras.losses.Loss` whose `call(labels, embeddings)` returns a `(batch,)` tensor.
        **kwargs: `name` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Raises:
        ValueError: if `loss` is not a Keras loss, or for a call whose labels are not one integer per embedding. The
            loss of a negative label is NaN.

    Examples:
        >>> head = EmbeddingHead(keras.losses.Circle(gamma=80, margin=0.4))
        >>> model = keras_arcface.RecognitionModel(embedder, head)
        >>> model.compile(optimizer="adam")

        The nearest other image of the third image is of another person:

        >>> head = EmbeddingHead(TripletLoss(margin=0.2))
        >>> embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
        >>> losses, cosines, hits = head.loss_and_stats(np.array([0, 0, 1, 1]), embeddings)
        >>> print(np.round(cosines, 2), np.asarray(hits))
        [ 0.8  0.8 -0.8 -0.8] [ True  True False False]

    References:
        - [FaceNet](https://arxiv.org/abs/1503.03832)
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
        """Normalizes embeddings.

        Args:
            embeddings: float tensor `(batch, dim)`.

        Returns:
            `(batch, dim)` L2-normalized embeddings.
        """
        return vectors.unit(embeddings)

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics in one pass.

        Args:
            labels: integer tensor `(batch,)`, at least 0.
            embeddings: float tensor `(batch, dim)`.
            training: not used.

        Returns:
            `(losses, cosines, hits)`: `(batch,)` float32 losses; `(batch,)` float32 cosines to the farthest image of
            the same person, or 1 without another image of the person; `(batch,)` bool mask of the examples whose
            nearest other image is of the same person.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.
        """
        labels, embeddings, valid = self.check_batch(labels, embeddings)
        unit = vectors.unit(embeddings)
        # `where` drops the Keras mask that `Circle` sets on its result. A mean would exclude the masked examples.
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
