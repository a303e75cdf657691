"""Head that also trains by the embeddings of a teacher network, and class centers of a teacher."""

import keras
import numpy as np
from keras import ops

from keras_arcface._arguments import check
from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.layers import vectors
from keras_arcface.layers.auxiliary_losses import AuxiliaryLossHead
from keras_arcface.layers.auxiliary_losses import is_outermost
from keras_arcface.layers.base import Head


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithDistillation(AuxiliaryLossHead):
    """Head that also draws embeddings toward those of a teacher, a trained network.

    The loss is `head_weight` times the loss of the inner head, plus `weight * (1 - cos(x, t))`, where `x` is the
    embedding of the network that is trained, the student, and `t` the embedding that the teacher gives to the image.
    Both are L2-normalized before. The teacher gets no gradient.

    Its labels are pairs `(labels, teacher_embeddings)`. `load_dataset(teacher=...)` returns such pairs with embeddings
    that were computed once, and `RecognitionModel(embedder, head, teacher)` computes them in each step.

    The inner head can be any head, also one that samples classes or has an auxiliary loss, but this head must be the
    outermost one. With `head_weight=0`, the student only imitates the teacher, and the inner head only reports metrics.
    The gradient of a softmax of scale `s` is up to `s` times that of the distance to the teacher, so a weight of the
    order of `s` balances the two.

    If `teacher_dim` is not the dimension of the student's embeddings, a dense layer without bias projects `x` to it.
    The layer belongs to the head, so it is not part of the saved embedder.

    Args:
        head: any other head, such as `ArcFace(num_classes)`.
        weight: weight of the distance to the teacher, at least 0.
        head_weight: weight of the loss of the inner head, at least 0.
        teacher_dim: dimension of the teacher's embeddings, or None if it is that of the student's.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        head: the inner head.
        projection: the dense layer that projects embeddings to `teacher_dim`, or None.

    Raises:
        ValueError: if an argument is out of its range, for labels without teacher embeddings, or for a call with labels
            in a functional model or with `training=True`.

    Examples:
        An embedding at a right angle to that of the teacher adds `weight` to the loss:

        >>> head = WithDistillation(ArcFace(num_classes=2, centers_initializer="identity"), weight=5.0)
        >>> labels, embeddings, teacher_embeddings = np.array([0]), np.array([[0.0, 3.0]]), np.array([[2.0, 0.0]])
        >>> losses = head.loss((labels, teacher_embeddings), embeddings)
        >>> print(np.round(losses - head.head.loss(labels, embeddings), 3))
        [5.]

    References:
        - [MarginDistillation](https://arxiv.org/abs/2003.02586), which compares this distance ("angular distillation")
          with other methods
    """

    needs_teacher = True

    def __init__(self, head, weight=1.0, head_weight=1.0, teacher_dim=None, **kwargs):
        check_number("head_weight", head_weight, lambda weight: weight >= 0, "at least 0")
        if teacher_dim is not None:
            check_integer("teacher_dim", teacher_dim, 1)
        super().__init__(head, weight, **kwargs)
        self.head_weight = float(head_weight)
        self.teacher_dim = None if teacher_dim is None else int(teacher_dim)
        self.projection = None

    def _check_head(self, head):
        if not isinstance(head, Head) or is_outermost(head):
            raise ValueError(
                "head must be a head without distillation and features_before, such as ArcFace(num_classes). "
                f"Received: head={head!r}"
            )

    def __repr__(self):
        return self.describe("head", "weight", "head_weight")

    @property
    def is_sampled(self):
        """True if the inner head samples classes."""
        return self.head.is_sampled

    @property
    def partial_fc(self):
        """The sampled classes of the inner head, or None."""
        return self.head.partial_fc

    @property
    def steps(self):
        """Step counter of the inner head."""
        return self.head.steps

    def build(self, embeddings_shape, labels_shape=None):
        super().build(embeddings_shape, labels_shape)
        dim = self.embedding_dim(embeddings_shape, labels_shape)
        if self.teacher_dim not in (None, dim):
            self.projection = keras.layers.Dense(
                self.teacher_dim, use_bias=False, dtype=self.dtype_policy, name="projection"
            )
            self.projection.build((None, dim))

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics in one pass.

        Args:
            labels: pair of labels, integers `(batch,)`, and embeddings of the teacher, `(batch, teacher_dim)`.
            embeddings: float tensor `(batch, dim)`, not normalized.
            training: if true, the call is a training step, which updates the state of the inner head.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 losses; the statistics of the inner head.

        Raises:
            ValueError: if labels are not such a pair, or not one integer per embedding.
        """
        labels, teacher_embeddings = self._split(labels)
        losses, target_cosines, hits = self.head.loss_and_stats(labels, embeddings, training=training)
        distances = 1.0 - self._cosines_to_teacher(labels, teacher_embeddings, embeddings)
        return self.head_weight * losses + self.weight * distances, target_cosines, hits

    def teacher_cosines(self, labels, embeddings):
        """Computes the cosines between the embeddings of student and teacher, after the projection.

        Args:
            labels: pair of labels and teacher embeddings, as in `loss_and_stats`.
            embeddings: float tensor `(batch, dim)`, not normalized.

        Returns:
            `(batch,)` float32 cosines without gradient, NaN for labels out of range.
        """
        return ops.stop_gradient(self._cosines_to_teacher(*self._split(labels), embeddings))

    def expected_first_loss(self, dim, seed=0):
        return self.head_weight * self.head.expected_first_loss(dim, seed) + self.weight

    def missing_from_logits(self):
        return "the distance to the teacher"

    def _split(self, labels):
        if not isinstance(labels, (tuple, list)) or len(labels) != 2 or len(getattr(labels[1], "shape", ())) != 2:
            received = getattr(labels, "shape", type(labels).__name__)
            raise ValueError(
                f"labels of {self.name} must be a pair (labels, teacher_embeddings) of shapes (batch,) and (batch, "
                "teacher_dim). Use load_dataset(..., teacher=...), or RecognitionModel(embedder, head, teacher). "
                f"Received: labels={received}"
            )
        return labels

    def _cosines_to_teacher(self, labels, teacher_embeddings, embeddings):
        _, embeddings, _ = self.check_batch(labels, embeddings)
        teacher_embeddings = ops.cast(ops.convert_to_tensor(teacher_embeddings), "float32")
        dim = embeddings.shape[-1] if self.teacher_dim is None else self.teacher_dim
        if teacher_embeddings.shape[-1] != dim:
            raise ValueError(
                f"Teacher embeddings of {self.name} must have {dim} dimensions. If the teacher has others than the "
                f"student, set teacher_dim. Received: teacher embeddings of shape {tuple(teacher_embeddings.shape)}, "
                f"embeddings of shape {tuple(embeddings.shape)}, teacher_dim={self.teacher_dim}"
            )
        if self.projection is not None:
            embeddings = self.projection(embeddings)
        return ops.sum(vectors.unit(embeddings) * vectors.unit(ops.stop_gradient(teacher_embeddings)), axis=-1)

    def get_config(self):
        return {**super().get_config(), "head_weight": self.head_weight, "teacher_dim": self.teacher_dim}


def set_teacher_centers(head, centers, fixed=False):
    """Sets the class centers of a head to those of a teacher, which has learned from more images.

    `TeacherEmbeddings.class_centers` computes the centers, the mean of the normalized embeddings of each class. Call
    this function before `compile`.

    With `fixed=True`, this is the part of MarginDistillation that fixes the centers: the student learns to place images
    where the teacher places their class. The paper also gives each image a margin that increases with the cosine
    between its teacher embedding and its center, which is not implemented; the margin is that of the head. The paper
    uses the centers with which the teacher was trained, here the means replace them, so that the classes can be others
    than those of the teacher.

    With `fixed=False`, the centers only start there and are trained. AdaDistill also lets centers move during the
    training, but toward the teacher embeddings of each batch and not by gradients, which is not implemented.

    Args:
        head: a head with one center per class, or one that wraps it, such as `WithDistillation`.
        centers: `(num_classes, dim)` array, with the dimension of the student's embeddings. Rows are L2-normalized.
        fixed: if true, the head with the centers is not trained (`trainable=False`). This includes its other weights,
            such as the threshold of `UniFace`.

    Raises:
        ValueError: if the head has no class centers or several per class, samples its classes and `fixed` is true, or
            `centers` has another shape or a row that is zero or not finite.

    Examples:
        >>> head = WithDistillation(ArcFace(num_classes=2))
        >>> set_teacher_centers(head, np.array([[3.0, 4.0], [0.0, 2.0]]), fixed=True)
        >>> print(np.asarray(head.centers.value), len(head.trainable_weights))
        [[0.6 0.8]
         [0.  1. ]] 0

    References:
        - [MarginDistillation](https://arxiv.org/abs/2003.02586), section 3
        - [AdaDistill](https://arxiv.org/abs/2407.01332), section 3
    """
    inner = head
    while isinstance(inner, AuxiliaryLossHead):
        inner = inner.head
    if not isinstance(inner, Head) or inner.num_classes is None or inner.sub_centers != 1:
        raise ValueError(f"head must be a head with one center per class, such as ArcFace. Received: head={head!r}")
    if fixed and inner.is_sampled:
        raise ValueError(
            f"head must not sample its classes if fixed=True, because sampled centers are trained. Received: {head!r}"
        )
    centers = np.asarray(centers, "float32")
    has_rows = centers.ndim == 2 and len(centers) == inner.num_classes
    check("the shape of centers", centers.shape, has_rows, f"({inner.num_classes}, dim)")
    lengths = np.linalg.norm(centers, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ValueError(
            f"centers must have rows that are finite and not zero. Received: other rows for the classes {wrong[:10]}"
        )
    if not head.built:
        head.build((None, centers.shape[1]))
    if tuple(inner.centers.shape) != centers.shape:
        raise ValueError(
            f"centers must have the shape of the centers of the head, {tuple(inner.centers.shape)}, so teacher and "
            f"student must have embeddings of the same dimension. Received: shape {centers.shape}"
        )
    inner.centers.assign(centers / lengths)
    if fixed:
        inner.trainable = False
