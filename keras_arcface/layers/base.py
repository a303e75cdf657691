"""Base class of heads, the layers that compute the loss from embeddings and labels."""

import keras
from keras import ops

from keras_arcface import _private_api
from keras_arcface.layers import validation
from keras_arcface.layers import vectors


class Head(keras.layers.Layer):
    """Base class of heads, the layers that compute class scores and the loss from embeddings.

    `RecognitionModel` trains with any head. Use a ready one, such as `ArcFace`, or write a subclass with
    `loss_and_stats`, `call` and `build(embeddings_shape, labels_shape=None)`. Heads compute in float32 under every
    dtype policy. A label outside `[0, num_classes)` makes its loss NaN on every backend.

    Args:
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        num_classes: number of classes, or None for a head without class centers.
        sub_centers: number of centers per class.
        is_sampled: true if training steps use a sample of the classes.
        partial_fc: the `PartialFC` of a built head with sampled classes, otherwise None.
        needs_teacher: true if the labels of the loss are pairs `(labels, teacher_embeddings)`.
        features_before: name of a layer of the embedder whose input the loss uses in addition to the embeddings, or
            None. The labels of the loss are then pairs `(labels, features)`.

    Raises:
        ValueError: if `dtype` is not float32.

    Examples:
        A softmax of squared distances to the class centers:

        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class DistanceHead(Head):
        ...     def __init__(self, num_classes, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.num_classes = num_classes
        ...
        ...     def build(self, embeddings_shape, labels_shape=None):
        ...         shape = (self.num_classes, self.embedding_dim(embeddings_shape, labels_shape))
        ...         self.centers = self.add_weight(name="centers", shape=shape)
        ...
        ...     def call(self, embeddings):
        ...         return -keras.ops.sum((embeddings[:, None] - self.centers) ** 2, axis=-1)
        ...
        ...     def loss_and_stats(self, labels, embeddings, training=False):
        ...         labels, embeddings, valid = self.check_batch(labels, embeddings)
        ...         logits = self(embeddings)
        ...         losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        ...         targets = keras.ops.take(self.centers, labels, axis=0)
        ...         cosines = -keras.losses.cosine_similarity(targets, embeddings)
        ...         return losses, cosines, valid & (keras.ops.argmax(logits, axis=-1) == labels)
        ...
        ...     def get_config(self):
        ...         return {**super().get_config(), "num_classes": self.num_classes}
        >>> head = DistanceHead(10)
        >>> tuple(head.loss(np.array([0, 9]), np.ones((2, 8))).shape)
        (2,)
    """

    num_classes = None
    sub_centers = 1
    is_sampled = False
    partial_fc = None
    needs_teacher = False
    features_before = None

    def __init__(self, **kwargs):
        policy = keras.dtype_policies.get(kwargs.pop("dtype", None) or "float32")
        if policy.compute_dtype != "float32" or policy.variable_dtype != "float32":
            raise ValueError(
                "dtype must be None or 'float32', because a softmax of lower precision is inaccurate at scale 64. A "
                f"head computes in float32 under every global dtype policy. Received: dtype={policy.name!r}"
            )
        super().__init__(dtype=policy, **kwargs)

    def __new__(cls, *args, **kwargs):
        validation.check_positional_arguments(cls, args)
        return super().__new__(cls, *args, **kwargs)

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics in one pass.

        Args:
            labels: integer tensor `(batch,)`.
            embeddings: float tensor `(batch, dim)`, not normalized.
            training: if true, the call is a training step, which updates the state of the head.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 losses; `(batch,)` float32 cosines to the target class,
            without the margin; `(batch,)` bool mask of the examples whose nearest class is the target class.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not implement loss_and_stats(labels, embeddings, training)."
        )

    def loss(self, labels, embeddings):
        """Computes the loss of each example outside of training.

        Args:
            labels: integer tensor `(batch,)`.
            embeddings: float tensor `(batch, dim)`, not normalized.

        Returns:
            `(batch,)` float32 losses.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.
        """
        return self.loss_and_stats(labels, embeddings)[0]

    def expected_first_loss(self, dim, seed=0):
        """Returns the expected mean loss of the first training step.

        It assumes embeddings in random directions, like those of a new network. A training with a different first loss
        has an unintended number of classes, scale or margin, or incorrect labels.

        Args:
            dim: dimension of the embeddings.
            seed: seed of the random directions.

        Returns:
            The mean loss, a float.

        Raises:
            ValueError: if the first loss does not depend on the arguments of the head alone.
        """
        raise ValueError(
            f"The expected first loss of {type(self).__name__} is unknown, because it depends on the embeddings. "
            f"Expected: a MarginProduct, such as ArcFace. Received: {self!r}"
        )

    def missing_from_logits(self):
        """Returns a description of the part of the loss that the logits of `call` do not include, or None.

        A functional model that trains by the logits refuses a head with such a part.

        Returns:
            A noun phrase for an error message, such as "label_smoothing", or None.
        """
        return None

    def embedding_dim(self, embeddings_shape, labels_shape=None):
        """Returns the dimension of the embeddings, from the arguments of `build`.

        Args:
            embeddings_shape: shape of the embeddings, or a list of the shapes of embeddings and labels.
            labels_shape: shape of the labels, or None.

        Returns:
            The dimension, an integer.

        Raises:
            ValueError: if the embeddings are not `(batch, dim)` with a known dimension.
        """
        if isinstance(embeddings_shape[0], (tuple, list)):  # called with [embeddings, labels]
            embeddings_shape, labels_shape = embeddings_shape
        if len(embeddings_shape) != 2 or embeddings_shape[-1] is None:
            received = f"embeddings of shape {tuple(embeddings_shape)}"
            if labels_shape is not None:
                received += f" and labels of shape {tuple(labels_shape)} in head(embeddings, labels)"
            raise ValueError(
                f"{self.name} requires embeddings of shape (batch, dim) with a known dim. Received: {received}"
            )
        return embeddings_shape[-1]

    def check_batch(self, labels, embeddings):
        """Validates and converts a batch, and builds the head if it is not built.

        Args:
            labels: integer tensor `(batch,)` or `(batch, 1)`.
            embeddings: float tensor `(batch, dim)`.

        Returns:
            `(labels, embeddings, valid)`: `(batch,)` int32 labels, with 0 in place of labels out of range; `(batch,
            dim)` float32 embeddings, with NaN for labels out of range; `(batch,)` bool mask of the labels in range.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.
        """
        labels, embeddings = ops.convert_to_tensor(labels), ops.convert_to_tensor(embeddings)
        validation.check_order(self, labels, embeddings, "loss(labels, embeddings)")
        embeddings = ops.cast(embeddings, "float32")
        if not self.built:
            self.build(tuple(embeddings.shape))
        labels, valid = validation.check_labels(self, labels, embeddings)
        return labels, vectors.nan_where_not(valid, embeddings), valid

    def check_call(self, embeddings, labels, training, needs_labels=True):
        """Raises a ValueError for a call in training whose logits do not include the complete loss.

        Args:
            embeddings: embeddings of the call.
            labels: labels of the call, or None.
            training: true for a call in training.
            needs_labels: true if the loss depends on the labels, for example because of a margin.

        Raises:
            ValueError: if labels are missing in training, or the logits do not include the complete loss.
        """
        if labels is None and training and needs_labels and not has_label_input(self):
            # A functional model that passes labels to the head may call it again without labels, for a metric.
            raise ValueError(
                f"{self.name} cannot train without labels, because its margin applies to the target class. Expected: "
                "keras_arcface.RecognitionModel(embedder, head), or head(embeddings, labels) in a functional model. "
                "Received: head(embeddings) with training=True"
            )
        if labels is None:
            return
        validation.check_order(self, labels, embeddings, "head(embeddings, labels)")
        if training:
            self._check_logits_train("with training=True")

    def _check_logits_train(self, context):
        missing = self.missing_from_logits()
        if missing:
            raise ValueError(
                f"{self.name} cannot be trained by its logits: they do not include {missing}. Expected: "
                "keras_arcface.RecognitionModel(embedder, head), which trains with head.loss. "
                f"Received: head(embeddings, labels) {context}"
            )

    def compute_output_spec(self, embeddings, *args, **kwargs):
        labels = args[0] if args else kwargs.get("labels")
        if labels is not None or isinstance(embeddings, (list, tuple)):
            self._check_logits_train("in a functional model")
        return super().compute_output_spec(embeddings, *args, **kwargs)

    def describe(self, *names):
        """Returns a repr in the style of Keras, with the given constructor arguments.

        Args:
            *names: names of constructor arguments.

        Returns:
            A string, such as `<ArcFace num_classes=10, name=arc_face, built=False>`.
        """
        config = self.get_config()
        values = {name: config.get(name) for name in names}
        # The repr of an object is shorter than its config.
        values = {n: getattr(self, n) if isinstance(v, dict) or v is None else v for n, v in values.items()}
        values |= {"name": self.name, "built": self.built}
        return f"<{type(self).__name__} {', '.join(f'{name}={value}' for name, value in values.items())}>"


def has_label_input(head):
    """Returns true if a functional model passes labels to a head."""
    return any(len(node.input_tensors) > 1 for node in _private_api.inbound_nodes(head))
