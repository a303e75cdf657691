"""What heads share: checked labels, precision, unit vectors, one entry per row."""

import inspect
import numbers

import keras
from keras import ops

from keras_arcface import _private_api

# An embedding with a smaller squared norm has no direction: its cosines, and the gradient that it gets, are zero.
_SMALLEST_SQUARED_NORM = 1e-12


def check_integer(name, value, least):
    """Raises a ValueError for an argument that is no integer, or below the least."""
    if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}. Received: {name}={value!r}")


def check_number(name, value, is_right, expected):
    """Raises a ValueError for an argument that is no real number, or not right."""
    if not isinstance(value, numbers.Real) or not is_right(value):
        raise ValueError(f"{name} must be {expected}. Received: {name}={value!r}")


def check_positions(cls, arguments):
    """Raises a TypeError for arguments of a head that must be named."""
    # Of a subclass with an __init__ of its own, the arguments may be others.
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:3]
    kinds = [(parameter.name, parameter.kind) for parameter in parameters]
    if len(arguments) > 1 and kinds[0][0] == "num_classes" and kinds[1][1] is inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(
            f"{cls.__name__} takes num_classes, and all else by name, such as margin=... and scale=64.0. The length of "
            "the embeddings is not an argument: a head takes it from the embeddings. "
            f"Received: {cls.__name__}({', '.join(map(repr, arguments))})"
        )


def check_labels_are_given(head, labels, training):
    """Raises a ValueError where a head with a margin trains without labels, and so without its margin.

    In a functional model whose head is called with labels too, the same head may give plain logits for a metric.
    """
    if labels is None and training and not takes_labels_in_a_model(head):
        raise ValueError(
            f"{head.name} cannot train without labels: its margin applies to the class of the label. Train it by "
            "keras_arcface.RecognitionModel(embedder, head), or call head(embeddings, labels) in a functional model. "
            "Received: head(embeddings) with training=True"
        )


def takes_labels_in_a_model(head):
    """Whether a head is part of a functional model that gives it labels; other calls leave no node."""
    return any(len(node.input_tensors) > 1 for node in _private_api.inbound_nodes(head))


def describe(head, *names):
    """A repr in Keras' form that shows some arguments, as the head's class takes them."""
    config = head.get_config()
    values = {name: config.get(name) for name in names}
    values = {
        name: getattr(head, name) if type(value) in (dict, type(None)) else value for name, value in values.items()
    }
    values |= {"name": head.name, "built": head.built}
    return f"<{type(head).__name__} {', '.join(f'{name}={value}' for name, value in values.items())}>"


def check_labels(head, labels, embeddings):
    """Gives labels as `(batch,)` int32 that are safe to index with, and which of them were in range.

    A head whose `num_classes` is None takes any label from 0 on.
    """
    dtype = keras.backend.standardize_dtype(labels.dtype)
    end = "..." if head.num_classes is None else head.num_classes
    if len(labels.shape) == 2 and labels.shape[1] == 1:
        labels = ops.squeeze(labels, axis=1)
    if len(labels.shape) == 2 and labels.shape[1] == head.num_classes:
        raise ValueError(
            f"{head.name} expects one label per embedding, an integer in [0, {end}), not one-hot. "
            f"Received: labels of dtype {dtype} and shape {tuple(labels.shape)}; pass labels.argmax(axis=-1)"
        )
    if "int" not in dtype:
        raise ValueError(
            f"{head.name} expects integer labels in [0, {end}), not one-hot and not float. "
            f"Received: labels of dtype {dtype} and shape {tuple(labels.shape)}; pass labels.astype('int32') if they "
            "are whole numbers"
        )
    batch, rows = embeddings.shape[0], labels.shape[0] if len(labels.shape) == 1 else "?"
    if rows == "?" or (None not in (batch, rows) and batch != rows):
        raise ValueError(
            f"{head.name} expects one label per embedding, labels of shape (batch,). Received: labels of shape "
            f"{tuple(labels.shape)} for embeddings of shape {tuple(embeddings.shape)}"
        )
    if dtype == "uint64":
        labels = ops.cast(labels, "int64")  # what does not fit becomes negative, and so out of range
    elif dtype not in ("int32", "int64"):
        labels = ops.cast(labels, "int32")  # a small type cannot be compared with a large num_classes
    valid = labels >= 0 if head.num_classes is None else ops.logical_and(labels >= 0, labels < head.num_classes)
    return ops.cast(ops.where(valid, labels, ops.zeros_like(labels)), "int32"), valid


def checked_batch(head, labels, embeddings):
    """What a loss is given, for a head that may not be built yet.

    Returns:
        `(labels, embeddings, valid)`: as `check_labels` gives them, and the embeddings in float32, NaN where a label
        was out of range.
    """
    embeddings = ops.cast(embeddings, "float32")
    if not head.built:
        head.build(tuple(embeddings.shape))
    labels, valid = check_labels(head, ops.convert_to_tensor(labels), embeddings)
    return labels, nan_where_not(valid, embeddings), valid


def float32_policy(dtype):
    policy = keras.dtype_policies.get("float32" if dtype is None else dtype)
    if policy.compute_dtype != "float32" or policy.variable_dtype != "float32":
        raise ValueError(
            "A head computes in float32 under every dtype policy: at scale 64 the softmax of a lower precision "
            f"is noise. Expected: dtype=None or 'float32'. Received: dtype={policy.name!r}"
        )
    return policy


def unit(vectors):
    """L2-normalizes rows; a zero row stays zero and gets no gradient, where dividing would give it a huge one."""
    return vectors * inverse_norms(vectors)


def inverse_norms(vectors):
    """`(rows, 1)` one divided by the L2 norm of each row, 0 for a zero row."""
    squared = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    has_direction = ops.logical_not(squared < _SMALLEST_SQUARED_NORM)  # NaN counts: it must not turn into zeros
    inverse = ops.rsqrt(ops.where(has_direction, squared, ops.ones_like(squared)))
    return ops.where(has_direction, inverse, ops.zeros_like(inverse))


def norms(vectors):
    """`(rows,)` the L2 norm of each row; a zero row has no gradient."""
    squared = ops.sum(ops.square(vectors), axis=-1)
    return ops.sqrt(ops.where(squared < _SMALLEST_SQUARED_NORM, ops.stop_gradient(squared) + 1e-24, squared))


def nan_where_not(valid, embeddings):
    return ops.where(ops.expand_dims(valid, 1), embeddings, ops.full_like(embeddings, float("nan")))


def take_column(matrix, columns):
    return ops.squeeze(ops.take_along_axis(matrix, ops.expand_dims(columns, 1), axis=1), axis=1)


def put_column(matrix, columns, values):
    """Replaces one entry per row, without a (batch, classes) mask."""
    rows = ops.arange(ops.shape(matrix)[0], dtype="int32")
    return ops.scatter_update(matrix, ops.stack([rows, columns], axis=1), values)


def split_pair(head, pair, labels):
    """The embeddings and labels of a head that is called with both in a list."""
    if labels is not None or len(pair) != 2:
        raise ValueError(
            f"{head.name} is called as head(embeddings), head(embeddings, labels) or head([embeddings, labels]). "
            f"Received: a {type(pair).__name__} of {len(pair)}" + (" and labels" if labels is not None else "")
        )
    return pair
