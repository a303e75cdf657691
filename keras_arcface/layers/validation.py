"""Checks of the arguments of a head: labels, embeddings and their order."""

import inspect

import keras
from keras import ops


def check_positional_arguments(cls, arguments):
    """Raises a TypeError for positional arguments of a head's constructor that must be keyword arguments."""
    # A subclass with another `__init__` can have other positional arguments.
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:3]
    kinds = [(parameter.name, parameter.kind) for parameter in parameters]
    if len(arguments) > 1 and kinds[0][0] == "num_classes" and kinds[1][1] is inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(
            f"{cls.__name__} must have num_classes as its only positional argument, and keyword arguments such as "
            "scale=64.0. The dimension of the embeddings is not an argument: a head reads it from the embeddings. "
            f"Received: {cls.__name__}({', '.join(map(repr, arguments))})"
        )


def check_order(head, labels, embeddings, signature):
    """Raises a ValueError if labels and embeddings are swapped.

    Args:
        head: head whose name the error shows.
        labels: value of the argument `labels`.
        embeddings: value of the argument `embeddings`.
        signature: signature of the called method, such as `"loss(labels, embeddings)"`.
    """
    is_swapped = _is_float(labels) and _ndim(labels) == 2 and _ndim(embeddings) <= 1 and not _is_float(embeddings)
    if is_swapped:
        raise ValueError(
            f"{head.name} received labels and embeddings in the wrong order. Expected: {signature}. Received: "
            f"labels of shape {tuple(labels.shape)} and embeddings of shape {tuple(embeddings.shape)}"
        )


def check_labels(head, labels, embeddings):
    """Returns `(batch,)` int32 labels, with 0 in place of those out of range, and a `(batch,)` mask of those in range.

    If `head.num_classes` is None, every label of at least 0 is in range.
    """
    dtype = keras.backend.standardize_dtype(labels.dtype)
    end = "..." if head.num_classes is None else head.num_classes
    if len(labels.shape) == 2 and labels.shape[1] == 1:
        labels = ops.squeeze(labels, axis=1)
    if len(labels.shape) == 2 and labels.shape[1] == head.num_classes:
        raise ValueError(
            f"labels of {head.name} must be one label per embedding, an integer in [0, {end}), not one-hot. "
            f"Received: labels of dtype {dtype} and shape {tuple(labels.shape)}; pass labels.argmax(axis=-1)"
        )
    if "int" not in dtype:
        raise ValueError(
            f"labels of {head.name} must be integer labels in [0, {end}), not one-hot and not float. "
            f"Received: labels of dtype {dtype} and shape {tuple(labels.shape)}; pass labels.astype('int32') if they "
            "are whole numbers"
        )
    batch, rows = embeddings.shape[0], labels.shape[0] if len(labels.shape) == 1 else "?"
    if rows == "?" or (None not in (batch, rows) and batch != rows):
        raise ValueError(
            f"labels of {head.name} must be one label per embedding, of shape (batch,). Received: labels of shape "
            f"{tuple(labels.shape)} for embeddings of shape {tuple(embeddings.shape)}"
        )
    if dtype == "uint64":
        labels = ops.cast(labels, "int64")  # too large values become negative and therefore out of range
    elif dtype not in ("int32", "int64"):
        labels = ops.cast(labels, "int32")  # a small integer type cannot represent a large num_classes
    valid = labels >= 0 if head.num_classes is None else ops.logical_and(labels >= 0, labels < head.num_classes)
    return ops.cast(ops.where(valid, labels, ops.zeros_like(labels)), "int32"), valid


def split_pair(head, embeddings, labels):
    """Returns the embeddings and labels of a call `head(embeddings, labels)` or `head([embeddings, labels])`."""
    if not isinstance(embeddings, (list, tuple)):
        return embeddings, labels
    if labels is not None or len(embeddings) != 2:
        raise ValueError(
            f"{head.name} must be called as head(embeddings), head(embeddings, labels) or head([embeddings, labels]). "
            f"Received: a {type(embeddings).__name__} of {len(embeddings)}"
            + (" and labels" if labels is not None else "")
        )
    return embeddings


def _is_float(tensor):
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _ndim(tensor):
    return len(tensor.shape)
