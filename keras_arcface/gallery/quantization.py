"""Templates as int8 numbers, a quarter of the memory of float32."""

import numpy as np

_LARGEST = 127


def quantize(templates: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Rounds templates to int8, with a scale per template.

    Args:
        templates: `(n, dim)` float32, L2-normalized.

    Returns:
        `(rows, scales, largest_error)`: `rows * scales[:, None]` approximates the templates, and no row is farther
        than `largest_error` from its template, in L2 distance. By the Cauchy-Schwarz inequality, no score of a
        normalized probe differs by more.

    Examples:
        >>> rows, scales, largest_error = quantize(np.array([[0.6, -0.8]], np.float32))
        >>> rows
        array([[  95, -127]], dtype=int8)
        >>> round(largest_error, 4)
        0.0016
    """
    scales = np.abs(templates).max(axis=1) / np.float32(_LARGEST)
    rows = np.rint(templates / scales[:, None]).astype(np.int8)
    differences = templates - rows * scales[:, None]
    largest = float(np.sqrt(np.einsum("id,id->i", differences, differences).max(initial=0.0)))
    return rows, scales, largest
