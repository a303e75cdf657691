"""The formulas of the papers in plain float64 NumPy, for clarity and not for speed."""

import numpy as np


def psi(theta, m1=1.0, m2=0.0, m3=0.0):
    """Returns (-1)^k cos(phi) - 2 k - m3 for an angle in [0, pi], with phi = m1 theta + m2 and k = floor(phi / pi)."""
    phi = m1 * np.asarray(theta, np.float64) + m2
    k = np.floor(phi / np.pi)
    return (-1.0) ** k * np.cos(phi) - 2 * k - m3


def psi_slope(theta, m1=1.0, m2=0.0, m3=0.0):
    """Returns d psi / d cos(theta)."""
    phi = m1 * np.asarray(theta, np.float64) + m2
    return (-1.0) ** np.floor(phi / np.pi) * m1 * np.sin(phi) / np.sin(theta)


def logits(embeddings, centers, labels, scale, **margin):
    """Returns `(batch, classes)` penalized logits."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T
    rows = np.arange(len(labels))
    penalized = cosines.copy()
    penalized[rows, labels] = psi(np.arccos(cosines[rows, labels]), **margin)
    return scale * penalized


def losses(embeddings, centers, labels, scale, **margin):
    """Returns `(batch,)` cross-entropies."""
    z = logits(embeddings, centers, labels, scale, **margin)
    top = z.max(axis=1, keepdims=True)
    return np.log(np.exp(z - top).sum(axis=1)) + top[:, 0] - z[np.arange(len(labels)), labels]


def mean_loss_gradients(embeddings, centers, labels, scale, straight_through=False, **margin):
    """Returns the gradients of the mean loss with respect to the embeddings and the centers, by the chain rule."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    center_norms = np.linalg.norm(centers, axis=1, keepdims=True)
    unit, unit_centers = embeddings / norms, centers / center_norms
    cosines = unit @ unit_centers.T
    rows = np.arange(len(labels))
    z = logits(embeddings, centers, labels, scale, **margin)
    probabilities = np.exp(z - z.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    by_logits = probabilities.copy()
    by_logits[rows, labels] -= 1
    by_cosines = scale * by_logits / len(labels)
    if not straight_through:
        by_cosines[rows, labels] *= psi_slope(np.arccos(cosines[rows, labels]), **margin)
    by_unit, by_unit_centers = by_cosines @ unit_centers, by_cosines.T @ unit

    def through_normalization(gradient, unit, norms):
        return (gradient - unit * np.sum(gradient * unit, axis=1, keepdims=True)) / norms

    return through_normalization(by_unit, unit, norms), through_normalization(
        by_unit_centers, unit_centers, center_norms
    )


def slopes(function, array, step=1e-6):
    """Returns the gradient of a function of a float64 array, by central differences."""
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = [array.copy(), array.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        result[index] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return result
