"""A head without classes, for losses that compare the images of a batch with each other."""

import keras
from keras import ops

from keras_arcface.layers import parts


@keras.saving.register_keras_serializable(package="keras_arcface")
class EmbeddingHead(keras.layers.Layer):
    """Lets `RecognitionModel` train with a loss of labels and embeddings, such as `TripletLoss` or Keras' `Circle`.

    The loss gets L2-normalized embeddings in float32, and must give one value per example. There are no weights, and
    labels are any integers from 0 on. Batches should have several images of each of their people:
    `load_dataset(..., images_per_class=K)`.

    What a model shows beside the loss is of the batch too: `accuracy` is the share of examples whose nearest other
    image is of the same person, and `target_angle` the mean angle to the farthest image of the same person, 0 where
    there is no other one.

    On the replicas of TensorFlow's MirroredStrategy each compares the images of its own part of a batch. `load_dataset`
    puts a person's images side by side, so where a part holds whole people it is only negatives that are fewer. Under
    `keras.distribution` on JAX the whole batch is compared.

    Keras' `Circle` has the paper's value. The paper holds the weights of pairs fixed in the gradient; Keras does not.

    Args:
        loss: a `keras.losses.Loss`, whose `call(labels, embeddings)` is `(batch,)`.
        **kwargs: `name` and the like. `dtype` may only be float32.

    Call arguments:
        embeddings: float tensor `(batch, dim)`.

    Returns:
        `(batch, dim)` L2-normalized embeddings.

    Raises:
        ValueError: for a loss that is none, or labels that are not one integer per embedding. A negative label makes
            the loss NaN.

    >>> head = EmbeddingHead(keras.losses.Circle(gamma=80, margin=0.4))

    References:
        - [Circle Loss](https://arxiv.org/abs/2002.10857)
    """

    num_classes = None

    def __init__(self, loss, **kwargs):
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(f"loss must be a keras.losses.Loss, such as TripletLoss(). Received: loss={loss!r}")
        super().__init__(dtype=parts.float32_policy(kwargs.pop("dtype", None)), **kwargs)
        self.embedding_loss = loss

    def __repr__(self):
        return f"<{type(self).__name__} loss={self.embedding_loss}, name={self.name}, built={self.built}>"

    def build(self, embeddings_shape):
        pass

    def call(self, embeddings):
        return parts.unit(embeddings)

    def loss(self, labels, embeddings):
        """Integers `(batch,)` and embeddings `(batch, dim)` -> `(batch,)` float32."""
        return self.loss_and_stats(labels, embeddings)[0]

    def loss_and_stats(self, labels, embeddings, training=False):
        """The loss, and what one wants to watch beside it.

        Returns:
            `(losses, cosines, hits)`: `(batch,)` float32 losses; `(batch,)` float32 cosines to the farthest image of
            the same person, 1 where there is no other one; `(batch,)` bool, whether the nearest other image is of the
            same person.
        """
        embeddings = ops.cast(embeddings, "float32")
        labels, valid = parts.check_labels(self, ops.convert_to_tensor(labels), embeddings)
        unit = parts.unit(parts.nan_where_not(valid, embeddings))
        # A new tensor: Keras' Circle marks its own with a mask, by which a mean would leave examples out.
        losses = ops.where(valid, self.embedding_loss.call(labels, unit), float("nan"))
        cosines = ops.clip(ops.stop_gradient(ops.matmul(unit, ops.transpose(unit))), -1.0, 1.0)
        same = ops.equal(ops.expand_dims(labels, 1), ops.expand_dims(labels, 0))
        is_itself = ops.eye(ops.shape(labels)[0], dtype="bool")
        farthest = ops.min(ops.where(ops.logical_and(same, ops.logical_not(is_itself)), cosines, 1.0), axis=1)
        nearest = ops.argmax(ops.where(is_itself, -2.0, cosines), axis=1)
        hits = parts.take_column(ops.logical_and(same, ops.logical_not(is_itself)), nearest)
        return losses, farthest, hits

    def get_config(self):
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.embedding_loss)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})
