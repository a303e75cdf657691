"""Triplet loss with batch-hard or semi-hard mining."""

import math

import keras
from keras import ops

from keras_arcface import _arguments

_MIN_SQUARED_NORM = 1e-12  # embeddings with a smaller norm are treated as zero
_MIN_SQUARED_DISTANCE = 1e-12  # avoids an infinite gradient of the square root
_ABOVE_ALL_DISTANCES = 1e30  # larger than every distance


@keras.saving.register_keras_serializable(package="keras_arcface")
class TripletLoss(keras.losses.Loss):
    """Triplet loss within a batch: `max(distance to positive - distance to negative + margin, 0)`.

    By default, embeddings are L2-normalized inside the loss. Each example of the batch is an anchor. Its positives are
    the other images of the same class, and its negatives are the images of other classes. The triplets depend on
    `mining`:

    - "hard": one triplet per anchor, with the farthest positive and the closest negative. The paper uses distances that
      are not squared, `squared=False`, of embeddings that are not normalized, `normalize=False`.
    - "semihard": one triplet per positive. Its negative is the closest one that is farther than the positive, or the
      farthest negative if all are closer. The loss of an anchor is the mean over its triplets.

    An anchor without positives or without negatives has loss 0, and is included in the mean over the batch. A zero
    embedding is treated as perpendicular to all others and gets no gradient.

    Train a `RecognitionModel` with `EmbeddingHead(TripletLoss())`, on batches with several images of each class
    (`load_dataset(..., images_per_class=K)`). A model whose outputs are embeddings can also use it as a Keras loss,
    `model.compile(loss=TripletLoss())`. Keras then casts labels to float32, which is exact for labels below 2**24.

    Args:
        margin: margin in units of the distance, between 0 and the largest distance, which is 4 for squared distances
            of normalized embeddings and 2 for others. FaceNet uses 0.2 with squared distances.
        mining: selection of triplets, "hard" or "semihard".
        squared: if true, distances are squared.
        normalize: if true, embeddings are L2-normalized. With false, the margin has no upper limit. `EmbeddingHead`
            normalizes embeddings in any case, `WithEmbeddingLoss` does not.
        name: name of the loss.
        **kwargs: `reduction` and `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        The third image is the only one of its class, so it has no triplet:

        >>> embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> loss = TripletLoss(margin=0.2)
        >>> print(np.round(loss.call(np.array([0, 0, 1]), embeddings), 2))
        [0.   0.52 0.  ]

        Train an embedder:

        >>> head = keras_arcface.layers.EmbeddingHead(TripletLoss(margin=0.2, mining="semihard"))
        >>> model = keras_arcface.RecognitionModel(embedder, head)

    References:
        - [FaceNet](https://arxiv.org/abs/1503.03832), section 3.2
        - [In Defense of the Triplet Loss for Person Re-Identification](https://arxiv.org/abs/1703.07737), equation 5
    """

    def __init__(self, margin=0.2, mining="hard", squared=True, normalize=True, name="triplet_loss", **kwargs):
        largest, expected = math.inf, "a finite number of at least 0"
        if normalize:
            largest = 4 if squared else 2  # between vectors of norm 1
            expected = f"a number in [0, {largest}] with squared={squared}"
        _arguments.check_number("margin", margin, lambda value: 0 <= value <= largest and value < math.inf, expected)
        _arguments.check_choice("mining", mining, ("hard", "semihard"))
        super().__init__(name=name, **kwargs)
        self.margin, self.mining = float(margin), mining
        self.squared, self.normalize = bool(squared), bool(normalize)

    def call(self, y_true, y_pred):
        """Computes the loss of each example.

        Args:
            y_true: labels, `(batch,)` or `(batch, 1)`.
            y_pred: float tensor `(batch, dim)`, embeddings that need not be normalized.

        Returns:
            `(batch,)` float32 losses.
        """
        labels = ops.reshape(y_true, (-1,))
        distances = self._distances(ops.cast(y_pred, "float32"))
        same = ops.equal(ops.expand_dims(labels, 1), ops.expand_dims(labels, 0))
        positives = ops.logical_and(same, ops.logical_not(ops.eye(ops.shape(labels)[0], dtype="bool")))
        losses = (self._hard if self.mining == "hard" else self._semihard)(distances, positives, ops.logical_not(same))
        return ops.where(ops.any(positives, axis=1), losses, 0.0)

    def _distances(self, embeddings):
        """Returns the distances between all pairs of embeddings, `(batch, batch)`."""
        squares = ops.sum(ops.square(embeddings), axis=-1, keepdims=True)
        if self.normalize:
            is_zero = squares < _MIN_SQUARED_NORM
            unit = ops.where(is_zero, 0.0, embeddings * ops.rsqrt(ops.where(is_zero, 1.0, squares)))
            squared = 2.0 - 2.0 * ops.matmul(unit, ops.transpose(unit))
        else:
            squared = squares + ops.transpose(squares) - 2.0 * ops.matmul(embeddings, ops.transpose(embeddings))
            squared = ops.maximum(squared, 0.0)
        return squared if self.squared else ops.sqrt(ops.maximum(squared, _MIN_SQUARED_DISTANCE))

    def _hard(self, distances, positives, negatives):
        farthest = ops.max(ops.where(positives, distances, 0.0), axis=1)
        closest = ops.min(ops.where(negatives, distances, _ABOVE_ALL_DISTANCES + self.margin), axis=1)
        return ops.relu(farthest - closest + self.margin)

    def _semihard(self, distances, positives, negatives):
        # If k negatives are closer to the anchor than a positive, its negative has index k in the order of distance.
        # This avoids an array of shape (batch, batch, batch).
        num_negatives = ops.sum(ops.cast(negatives, "int32"), axis=1, keepdims=True)
        fixed = ops.stop_gradient(distances)
        order = ops.argsort(fixed, axis=1)
        closer = ops.cumsum(ops.cast(ops.take_along_axis(negatives, order, axis=1), "int32"), axis=1)
        num_closer = ops.take_along_axis(
            closer, ops.argsort(order, axis=1), axis=1
        )  # number of closer negatives per image
        negatives_by_distance = ops.argsort(ops.where(negatives, fixed, _ABOVE_ALL_DISTANCES), axis=1)
        position = ops.minimum(num_closer, ops.maximum(num_negatives - 1, 0))
        chosen = ops.take_along_axis(negatives_by_distance, position, axis=1)
        losses = ops.relu(distances - ops.take_along_axis(distances, chosen, axis=1) + self.margin)
        is_triplet = ops.logical_and(positives, num_negatives > 0)
        total = ops.sum(ops.where(is_triplet, losses, 0.0), axis=1)
        return total / ops.maximum(ops.sum(ops.cast(is_triplet, "float32"), axis=1), 1.0)

    def __repr__(self):
        options = f"margin={self.margin}, mining={self.mining!r}, squared={self.squared}, normalize={self.normalize}"
        return f"TripletLoss({options})"

    def get_config(self):
        return {
            **super().get_config(),
            "margin": self.margin,
            "mining": self.mining,
            "squared": self.squared,
            "normalize": self.normalize,
        }
