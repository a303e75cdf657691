"""Checks of what a head is called with: labels, embeddings and their order."""

import inspect

import keras
from keras import ops


def check_positional_arguments(cls, arguments):
    """Raises a TypeError if a head's constructor gets arguments by position that must be named."""
    # Subclasses with an __init__ of their own may take other arguments.
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:3]
    kinds = [(parameter.name, parameter.kind) for parameter in parameters]
    if len(arguments) > 1 and kinds[0][0] == "num_classes" and kinds[1][1] is inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(
            f"{cls.__name__} takes num_classes by position and everything else by name, such as margin=... and "
            "scale=64.0. The length of the embeddings is not an argument: a head takes it from the embeddings. "
            f"Received: {cls.__name__}({', '.join(map(repr, arguments))})"
        )


def check_order(head, labels, embeddings, signature):
    """Raises a ValueError if labels and embeddings are swapped.

    Args:
        head: the head, for its name.
        labels: what was given as labels.
        embeddings: what was given as embeddings.
        signature: how the method is called, such as `"loss(labels, embeddings)"`.
    """
    is_swapped = _is_float(labels) and _ndim(labels) == 2 and _ndim(embeddings) <= 1 and not _is_float(embeddings)
    if is_swapped:
        raise ValueError(
            f"{head.name} received labels and embeddings in the wrong order. Expected: {signature}. Received: "
            f"labels of shape {tuple(labels.shape)} and embeddings of shape {tuple(embeddings.shape)}"
        )


def check_labels(head, labels, embeddings):
    """Returns `(batch,)` int32 labels that are safe to index with, and `(batch,)` bool, which ones were in range.

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
        labels = ops.cast(labels, "int64")  # values that do not fit become negative, and so out of range
    elif dtype not in ("int32", "int64"):
        labels = ops.cast(labels, "int32")  # a small type cannot be compared with a large num_classes
    valid = labels >= 0 if head.num_classes is None else ops.logical_and(labels >= 0, labels < head.num_classes)
    return ops.cast(ops.where(valid, labels, ops.zeros_like(labels)), "int32"), valid


def split_pair(head, embeddings, labels):
    """Returns embeddings and labels of `head(embeddings, labels)` or `head([embeddings, labels])`."""
    if not isinstance(embeddings, (list, tuple)):
        return embeddings, labels
    if labels is not None or len(embeddings) != 2:
        raise ValueError(
            f"{head.name} is called as head(embeddings), head(embeddings, labels) or head([embeddings, labels]). "
            f"Received: a {type(embeddings).__name__} of {len(embeddings)}"
            + (" and labels" if labels is not None else "")
        )
    return embeddings


def _is_float(tensor):
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _ndim(tensor):
    return len(tensor.shape)
