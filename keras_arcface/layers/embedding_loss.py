"""Head that adds a loss of embeddings, such as the triplet loss, to the loss of another head."""

import keras
from keras import ops

from keras_arcface.layers.auxiliary_losses import AuxiliaryLossHead


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithEmbeddingLoss(AuxiliaryLossHead):
    """Head that also compares the images of a batch with each other, by a loss such as `TripletLoss` or `Circle`.

    The loss is that of the inner head plus `weight` times that of the images. A batch should contain several images of
    each class: `load_dataset(..., images_per_class=K)`. As in `EmbeddingHead`, each replica of a MirroredStrategy
    compares only the images of its part of the batch.

    By default, both losses have the embeddings as their input, which are not normalized. With `features_before`, the
    loss of the images compares the inputs of a layer of the embedder. `features_before="embedding"` with an embedder of
    `make_embedder(neck="BNNeck")` is the BNNeck of the paper: the triplet loss receives the features before the last
    BatchNorm, and the softmax, like all comparisons after the training, those behind it. This requires a
    `RecognitionModel`, and this head must then be the outermost one. Its labels are pairs `(labels, features)`, which
    the model creates.

    Args:
        head: a head with classes that does not sample them, such as `ArcFace(num_classes)`.
        loss: a `keras.losses.Loss` whose `call(labels, embeddings)` returns a `(batch,)` tensor.
        weight: weight of this loss, at least 0.
        features_before: name of the layer of the embedder whose input the loss compares, or None for the embeddings.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Raises:
        ValueError: if an argument is out of its range, for labels without features if `features_before` is set, or for
            a call with labels in a functional model or with `training=True`.

    Examples:
        The triplet loss of two images of each class, whose distances are 1 within and 2 between the classes:

        >>> loss = TripletLoss(margin=1.5, squared=False, normalize=False)
        >>> head = WithEmbeddingLoss(ArcFace(num_classes=2, centers_initializer="identity"), loss, weight=10.0)
        >>> embeddings = np.array([[1.0, 1.0], [1.0, 2.0], [3.0, 1.0], [3.0, 2.0]])
        >>> labels = np.array([0, 0, 1, 1])
        >>> print(np.round(head.loss(labels, embeddings) - head.head.loss(labels, embeddings), 3))
        [5. 5. 5. 5.]

        The BNNeck:

        >>> backbone = keras_arcface.backbones.IResNet((1,), width=8, input_shape=(32, 16, 3))
        >>> embedder = make_embedder(backbone, dim=8, neck="BNNeck")
        >>> triplets = TripletLoss(margin=0.3, squared=False, normalize=False)
        >>> head = WithEmbeddingLoss(ArcFace(num_classes=2), triplets, features_before="embedding")
        >>> model = keras_arcface.RecognitionModel(embedder, head)

    References:
        - [Bag of Tricks and a Strong Baseline for Deep Person Re-identification](https://arxiv.org/abs/1903.07071),
          section 3.6
    """

    def __init__(self, head, loss, weight=1.0, features_before=None, **kwargs):
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(f"loss must be a keras.losses.Loss, such as TripletLoss(). Received: loss={loss!r}")
        super().__init__(head, weight, **kwargs)
        self.embedding_loss, self.features_before = loss, features_before

    def __repr__(self):
        options = f"loss={self.embedding_loss}, weight={self.weight}, features_before={self.features_before!r}"
        return f"<{type(self).__name__} head={self.head}, {options}, name={self.name}, built={self.built}>"

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics in one pass.

        Args:
            labels: integer tensor `(batch,)`; with `features_before`, a pair of it and features `(batch, channels)`.
            embeddings: float tensor `(batch, dim)`, not normalized.
            training: if true, the call is a training step, which updates the state of the inner head.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 losses; the statistics of the inner head.

        Raises:
            ValueError: if labels are not one integer per embedding, or not a pair with features.
        """
        labels, features = self._split(labels)
        losses, target_cosines, hits = self.head.loss_and_stats(labels, embeddings, training=training)
        labels, _, valid = self.check_batch(labels, embeddings)
        compared = ops.cast(ops.convert_to_tensor(embeddings if features is None else features), "float32")
        # An image with a wrong label belongs to no class, and only its own loss is NaN.
        of_images = self.embedding_loss.call(ops.where(valid, labels, -1), compared)
        return losses + self.weight * ops.where(valid, of_images, float("nan")), target_cosines, hits

    def _split(self, labels):
        if self.features_before is None:
            return labels, None
        if not isinstance(labels, (tuple, list)) or len(labels) != 2 or len(getattr(labels[1], "shape", ())) != 2:
            received = getattr(labels, "shape", type(labels).__name__)
            raise ValueError(
                f"labels of {self.name} must be a pair (labels, features) of shapes (batch,) and (batch, channels) "
                f"with features_before={self.features_before!r}. Use RecognitionModel(embedder, head). "
                f"Received: labels={received}"
            )
        return labels

    def get_config(self):
        return {
            **super().get_config(),
            "loss": keras.saving.serialize_keras_object(self.embedding_loss),
            "features_before": self.features_before,
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config({**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})
