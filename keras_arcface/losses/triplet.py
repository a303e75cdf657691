"""Triplet loss: of each image, one of the same person should be closer than one of another, by a margin."""

import keras
from keras import ops

_MININGS = ("hard", "semihard")
_SMALLEST_SQUARED_NORM = 1e-12  # of an embedding with a direction
_SMALLEST_SQUARED_DISTANCE = 1e-12  # below it the root has no slope
_FARTHER_THAN_ANY = 8.0


@keras.saving.register_keras_serializable(package="keras_arcface")
class TripletLoss(keras.losses.Loss):
    """Triplet loss with the triplets of a batch: `max(distance to positive - distance to negative + margin, 0)`.

    Embeddings are L2-normalized here. Every example of the batch is the anchor of triplets:

    - "hard": of one, with the farthest image of the same person and the closest one of another. The paper of batch-hard
      takes plain distances, `squared=False`, of embeddings that are not normalized.
    - "semihard": of one with each other image of the same person. The negative is the closest that is farther than that
      image, or, if there is none, the farthest of all. The example's loss is the mean over these triplets.

    An example without another image of the same person, or without one of another person, has loss 0; the mean over a
    batch counts it. A zero embedding has the distances of a vector perpendicular to all others, and no gradient.

    Alone it is a Keras loss, `model.compile(loss=TripletLoss())`, for a model that gives embeddings. Keras hands losses
    their labels as float32 then, which tells labels below 2**24 apart.

    Args:
        margin: at least 0, and at most the largest distance: 4, or 2 where distances are not squared. FaceNet takes
            0.2 of squared distances.
        mining: "hard" or "semihard".
        squared: whether distances are squared.
        **kwargs: `reduction`, `name` and `dtype` of a Keras loss.

    Call arguments:
        y_true: labels `(batch,)` or `(batch, 1)`.
        y_pred: embeddings `(batch, dim)`, normalized or not.

    Raises:
        ValueError: for arguments out of range.

    >>> loss = TripletLoss(margin=0.2, mining="semihard")
    >>> losses = loss.call(np.array([0, 0, 1]), np.eye(3))  # (3,), one for each example

    References:
        - [FaceNet](https://arxiv.org/abs/1503.03832), section 3.2
        - [In Defense of the Triplet Loss for Person Re-Identification](https://arxiv.org/abs/1703.07737), equation 5
    """

    def __init__(self, margin=0.2, mining="hard", squared=True, name="triplet_loss", **kwargs):
        largest = 4 if squared else 2  # between vectors of norm 1
        if not 0 <= margin <= largest:
            raise ValueError(
                f"margin must be at least 0, and at most the largest distance: {largest} with squared={squared}. "
                f"Received: margin={margin!r}"
            )
        if mining not in _MININGS:
            raise ValueError(f"mining must be one of {', '.join(_MININGS)}. Received: mining={mining!r}")
        super().__init__(name=name, **kwargs)
        self.margin, self.mining, self.squared = float(margin), mining, bool(squared)

    def call(self, y_true, y_pred):
        labels = ops.reshape(y_true, (-1,))
        distances = self._distances(ops.cast(y_pred, "float32"))
        same = ops.equal(ops.expand_dims(labels, 1), ops.expand_dims(labels, 0))
        positives = ops.logical_and(same, ops.logical_not(ops.eye(ops.shape(labels)[0], dtype="bool")))
        losses = (self._hard if self.mining == "hard" else self._semihard)(distances, positives, ops.logical_not(same))
        return ops.where(ops.any(positives, axis=1), losses, 0.0)

    def _distances(self, embeddings):
        """`(batch, batch)`, each to each."""
        squares = ops.sum(ops.square(embeddings), axis=-1, keepdims=True)
        is_zero = squares < _SMALLEST_SQUARED_NORM
        unit = ops.where(is_zero, 0.0, embeddings * ops.rsqrt(ops.where(is_zero, 1.0, squares)))
        squared = 2.0 - 2.0 * ops.matmul(unit, ops.transpose(unit))
        return squared if self.squared else ops.sqrt(ops.maximum(squared, _SMALLEST_SQUARED_DISTANCE))

    def _hard(self, distances, positives, negatives):
        farthest = ops.max(ops.where(positives, distances, 0.0), axis=1)
        closest = ops.min(ops.where(negatives, distances, _FARTHER_THAN_ANY + self.margin), axis=1)
        return ops.relu(farthest - closest + self.margin)

    def _semihard(self, distances, positives, negatives):
        # How many negatives are closer than an image tells which one comes next: no (batch, batch, batch) array.
        count = ops.sum(ops.cast(negatives, "int32"), axis=1, keepdims=True)
        fixed = ops.stop_gradient(distances)
        order = ops.argsort(fixed, axis=1)
        closer = ops.cumsum(ops.cast(ops.take_along_axis(negatives, order, axis=1), "int32"), axis=1)
        closer = ops.take_along_axis(closer, ops.argsort(order, axis=1), axis=1)  # negatives closer than each image
        by_distance = ops.argsort(ops.where(negatives, fixed, _FARTHER_THAN_ANY), axis=1)
        chosen = ops.take_along_axis(by_distance, ops.minimum(closer, ops.maximum(count - 1, 0)), axis=1)
        losses = ops.relu(distances - ops.take_along_axis(distances, chosen, axis=1) + self.margin)
        counts = ops.logical_and(positives, count > 0)
        counted = ops.sum(ops.where(counts, losses, 0.0), axis=1)
        return counted / ops.maximum(ops.sum(ops.cast(counts, "float32"), axis=1), 1.0)

    def __repr__(self):
        return f"TripletLoss(margin={self.margin}, mining={self.mining!r}, squared={self.squared})"

    def get_config(self):
        return {**super().get_config(), "margin": self.margin, "mining": self.mining, "squared": self.squared}
