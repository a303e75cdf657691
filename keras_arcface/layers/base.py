"""What every head is: a layer that owns the loss of embeddings and labels."""

import keras
from keras import ops

from keras_arcface import _private_api
from keras_arcface.layers import validation
from keras_arcface.layers import vectors


class Head(keras.layers.Layer):
    """Base class of heads: layers that turn embeddings into class scores, and own the loss.

    A subclass implements `loss_and_stats`, `call` and `build(embeddings_shape, labels_shape=None)`. Heads compute in
    float32 under every dtype policy. A label outside `[0, num_classes)` makes its loss NaN on every backend.

    Args:
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        num_classes: number of classes, or None for a head without class centers.
        sub_centers: number of centers per class.
        is_sampled: whether training steps use a sample of the classes.
        partial_fc: the `PartialFC` of a built head that `is_sampled`, else None.

    Raises:
        ValueError: for another dtype than float32.
    """

    num_classes = None
    sub_centers = 1
    is_sampled = False
    partial_fc = None

    def __init__(self, **kwargs):
        policy = keras.dtype_policies.get(kwargs.pop("dtype", None) or "float32")
        if policy.compute_dtype != "float32" or policy.variable_dtype != "float32":
            raise ValueError(
                "A head computes in float32 under every dtype policy: at scale 64 the softmax of a lower precision "
                f"is noise. Expected: dtype=None or 'float32'. Received: dtype={policy.name!r}"
            )
        super().__init__(dtype=policy, **kwargs)

    def __new__(cls, *args, **kwargs):
        validation.check_positional_arguments(cls, args)
        return super().__new__(cls, *args, **kwargs)

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and what is worth watching beside it, in one pass.

        Args:
            labels: integer tensor `(batch,)`.
            embeddings: float tensor `(batch, dim)`, not normalized.
            training: if true, counts the batch as a training step.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 losses; `(batch,)` float32 cosines to the own class,
            without the margin; `(batch,)` bool, whether every other class is farther away.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not implement loss_and_stats(labels, embeddings, training)."
        )

    def loss(self, labels, embeddings):
        """Computes the loss per example.

        Args:
            labels: integer tensor `(batch,)`.
            embeddings: float tensor `(batch, dim)`, not normalized.

        Returns:
            `(batch,)` float32 losses.
        """
        return self.loss_and_stats(labels, embeddings)[0]

    def expected_first_loss(self, dim, seed=0):
        """Returns the mean loss to expect at the first training step.

        The embeddings of a new network point in random directions. A training whose first loss is elsewhere has another
        number of classes, scale or margin than intended, or labels that do not belong to the head.

        Args:
            dim: length of the embeddings.
            seed: seed of the random directions.

        Raises:
            ValueError: for a head whose first loss depends on more than its arguments.
        """
        raise ValueError(
            f"The first loss of {type(self).__name__} depends on the embeddings and not only on the head. Expected: a "
            f"MarginProduct, such as ArcFace. Received: {self!r}"
        )

    def loss_beyond_logits(self):
        """Returns what the loss has and the logits of `call` lack, as the subject of a sentence; None for nothing."""
        return None

    def embedding_dim(self, embeddings_shape, labels_shape=None):
        """Returns the length of the embeddings, from the arguments of `build`."""
        if isinstance(embeddings_shape[0], (tuple, list)):  # called with [embeddings, labels]
            embeddings_shape, labels_shape = embeddings_shape
        if len(embeddings_shape) != 2 or embeddings_shape[-1] is None:
            received = f"embeddings of shape {tuple(embeddings_shape)}"
            if labels_shape is not None:
                received += f" and labels of shape {tuple(labels_shape)} in head(embeddings, labels)"
            raise ValueError(
                f"{self.name} expects embeddings of shape (batch, dim) with a known dim. Received: {received}"
            )
        return embeddings_shape[-1]

    def check_batch(self, labels, embeddings):
        """Returns a batch in the form that losses need, and builds the head if it is not built.

        Returns:
            `(labels, embeddings, valid)`: `(batch,)` int32 in range, `(batch, dim)` float32 with NaN where a label was
            out of range, and `(batch,)` bool, which labels were in range.
        """
        labels, embeddings = ops.convert_to_tensor(labels), ops.convert_to_tensor(embeddings)
        validation.check_order(self, labels, embeddings, "loss(labels, embeddings)")
        embeddings = ops.cast(embeddings, "float32")
        if not self.built:
            self.build(tuple(embeddings.shape))
        labels, valid = validation.check_labels(self, labels, embeddings)
        return labels, vectors.nan_where_not(valid, embeddings), valid

    def check_call(self, embeddings, labels, training, needs_labels=True):
        """Raises a ValueError for a call whose logits cannot train the head as its loss would.

        Args:
            embeddings: embeddings of the call.
            labels: labels of the call, or None.
            training: whether the call is in training.
            needs_labels: whether training without labels would lose a part of the loss.
        """
        if labels is None and training and needs_labels and not takes_labels_in_a_model(self):
            # A functional model that gives the head labels may use it again, without labels, for a metric.
            raise ValueError(
                f"{self.name} cannot train without labels: its margin applies to the class of the label. Train it by "
                "keras_arcface.RecognitionModel(embedder, head), or call head(embeddings, labels) in a functional "
                "model. Received: head(embeddings) with training=True"
            )
        if labels is None:
            return
        validation.check_order(self, labels, embeddings, "head(embeddings, labels)")
        if training:
            self._check_logits_train("with training=True")

    def _check_logits_train(self, how):
        missing = self.loss_beyond_logits()
        if missing:
            raise ValueError(
                f"{self.name} cannot be trained by its logits: {missing} is not a part of them. Expected: "
                "keras_arcface.RecognitionModel(embedder, head), which trains by head.loss. "
                f"Received: head(embeddings, labels) {how}"
            )

    def compute_output_spec(self, embeddings, *args, **kwargs):
        labels = args[0] if args else kwargs.get("labels")
        if labels is not None or isinstance(embeddings, (list, tuple)):
            self._check_logits_train("in a functional model")
        return super().compute_output_spec(embeddings, *args, **kwargs)

    def describe(self, *names):
        """Returns a repr in Keras' form that shows some of the constructor's arguments."""
        config = self.get_config()
        values = {name: config.get(name) for name in names}
        # Objects show better than their configs.
        values = {n: getattr(self, n) if isinstance(v, dict) or v is None else v for n, v in values.items()}
        values |= {"name": self.name, "built": self.built}
        return f"<{type(self).__name__} {', '.join(f'{name}={value}' for name, value in values.items())}>"


def takes_labels_in_a_model(head):
    """Returns whether a functional model gives labels to a head."""
    return any(len(node.input_tensors) > 1 for node in _private_api.inbound_nodes(head))
