"""L2 norms with finite gradients, and access to one entry per row."""

from keras import ops

# An embedding with a smaller squared norm has no direction: its cosines and its gradient are zero.
_SMALLEST_SQUARED_NORM = 1e-12


def unit(vectors):
    """L2-normalizes rows. A zero row stays zero and gets no gradient."""
    return vectors * inverse_norms(vectors)


def inverse_norms(vectors):
    """`(rows, 1)` one divided by the L2 norm of each row, 0 for a zero row."""
    squared = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    has_direction = ops.logical_not(squared < _SMALLEST_SQUARED_NORM)  # true for NaN, which must not become zero
    inverse = ops.rsqrt(ops.where(has_direction, squared, ops.ones_like(squared)))
    return ops.where(has_direction, inverse, ops.zeros_like(inverse))


def norms(vectors):
    """`(rows,)` the L2 norm of each row; a zero row has no gradient."""
    squared = ops.sum(ops.square(vectors), axis=-1)
    return ops.sqrt(ops.where(squared < _SMALLEST_SQUARED_NORM, ops.stop_gradient(squared) + 1e-24, squared))


def nan_where_not(valid, rows):
    """Replaces rows by NaN where `valid`, `(rows,)` bool, is false."""
    return ops.where(ops.expand_dims(valid, 1), rows, ops.full_like(rows, float("nan")))


def take_column(matrix, columns):
    """`(rows,)` one entry per row."""
    return ops.squeeze(ops.take_along_axis(matrix, ops.expand_dims(columns, 1), axis=1), axis=1)


def put_column(matrix, columns, values):
    """Replaces one entry per row, without a `(rows, columns)` mask."""
    rows = ops.arange(ops.shape(matrix)[0], dtype="int32")
    return ops.scatter_update(matrix, ops.stack([rows, columns], axis=1), values)
