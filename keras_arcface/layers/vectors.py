"""L2 norms with finite gradients, and functions to read and replace one entry per row."""

from keras import ops

# An embedding with a smaller squared norm is treated as zero, and its cosines and gradient are zero.
_SMALLEST_SQUARED_NORM = 1e-12


def unit(vectors):
    """L2-normalizes rows. A zero row stays zero and has no gradient."""
    return vectors * inverse_norms(vectors)


def inverse_norms(vectors):
    """Returns the `(rows, 1)` reciprocals of the L2 norms of rows, 0 for a zero row."""
    return inverse_roots(ops.sum(ops.square(vectors), axis=-1, keepdims=True))


def inverse_roots(squared):
    """Returns the reciprocals of the L2 norms of vectors with the given squared norms, 0 for a zero vector."""
    has_direction = ops.logical_not(squared < _SMALLEST_SQUARED_NORM)  # true for NaN, so that NaN stays NaN
    inverse = ops.rsqrt(ops.where(has_direction, squared, ops.ones_like(squared)))
    return ops.where(has_direction, inverse, ops.zeros_like(inverse))


def norms(vectors):
    """Returns the `(rows,)` L2 norms of rows. A zero row has no gradient."""
    squared = ops.sum(ops.square(vectors), axis=-1)
    return ops.sqrt(ops.where(squared < _SMALLEST_SQUARED_NORM, ops.stop_gradient(squared) + 1e-24, squared))


def nan_where_not(valid, rows):
    """Replaces rows by NaN where the `(rows,)` mask `valid` is false."""
    return ops.where(ops.expand_dims(valid, 1), rows, ops.full_like(rows, float("nan")))


def take_column(matrix, columns):
    """Returns one entry of each row, `(rows,)`."""
    return ops.squeeze(ops.take_along_axis(matrix, ops.expand_dims(columns, 1), axis=1), axis=1)


def put_column(matrix, columns, values):
    """Replaces one entry of each row, without a `(rows, columns)` mask."""
    rows = ops.arange(ops.shape(matrix)[0], dtype="int32")
    return ops.scatter_update(matrix, ops.stack([rows, columns], axis=1), values)
