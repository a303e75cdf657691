"""The formulas of the papers in plain float64 NumPy, for clarity and not for speed."""

import numpy as np


def problem(batch, classes, dim, seed=0):
    """Embeddings from far to close to their center, labels that repeat."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, batch)
    labels[batch // 2 :] = labels[0]
    centers = generator.normal(size=(classes, dim)).astype("float32")
    closeness = np.linspace(-2, 3, batch)[:, None]
    embeddings = (closeness * centers[labels] + generator.normal(size=(batch, dim))).astype("float32")
    return embeddings, labels, centers


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


def divergence_probabilities(z, labels, margin, alpha):
    """Returns the probabilities of an alpha-divergence, and the thresholds, by bisection.

    Args:
        z: `(batch, classes)` logits.
        labels: `(batch,)` labels.
        margin: margin in logits.
        alpha: parameter of the divergence.
    """
    rows, power = np.arange(len(labels)), 1 / (alpha - 1)
    log_prior = np.zeros_like(z)
    log_prior[rows, labels] = -power * np.log1p((alpha - 1) * margin)

    def probabilities(threshold):
        base = np.maximum(1 + (alpha - 1) * (z - threshold[:, None]), 0)
        with np.errstate(divide="ignore"):
            return np.exp(log_prior + power * np.log(base))

    # One class alone has at most the probability 1, and n equal ones have 1 / n each at the latest.
    penalized = z.copy()
    penalized[rows, labels] -= margin
    low, high = penalized.max(axis=1), z.max(axis=1) + power
    while (high - low > 1e-12 * np.maximum(1, np.abs(high))).any():
        middle = (low + high) / 2
        if ((middle <= low) | (middle >= high)).all():
            break
        is_low = probabilities(middle).sum(axis=1) > 1
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return probabilities(low), low


def divergence_losses(embeddings, centers, labels, scale, margin, alpha):
    """Returns the `(batch,)` Fenchel-Young losses of an alpha-divergence, from its definition."""
    z = scale * unit(embeddings) @ unit(centers).T
    p, _ = divergence_probabilities(z, labels, scale * margin, alpha)
    rows, prior = np.arange(len(labels)), np.ones_like(z)
    prior[rows, labels] = (1 + (alpha - 1) * scale * margin) ** (-1 / (alpha - 1))

    def divergence(p):
        ratio = p / prior
        return np.sum(prior * (ratio**alpha - 1 - alpha * (ratio - 1)), axis=1) / (alpha * (alpha - 1))

    onehot = np.zeros_like(z)
    onehot[rows, labels] = 1
    return np.sum(p * z, axis=1) - divergence(p) + divergence(onehot) - z[rows, labels]


def divergence_gradients(embeddings, centers, labels, scale, margin, alpha):
    """Returns the gradients of the mean of `divergence_losses` with respect to the embeddings and the centers."""
    z = scale * unit(embeddings) @ unit(centers).T
    p, _ = divergence_probabilities(z, labels, scale * margin, alpha)
    p[np.arange(len(labels)), labels] -= 1
    by_cosines = scale * p / len(labels)
    return (
        through_unit(by_cosines @ unit(centers), embeddings),
        through_unit(by_cosines.T @ unit(embeddings), centers),
    )


def unit(vectors):
    """L2-normalizes rows; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-6)


def through_unit(gradient, vectors):
    """Returns the gradient with respect to vectors, from that with respect to `unit(vectors)`."""
    norms, direction = np.linalg.norm(vectors, axis=-1, keepdims=True), unit(vectors)
    tangent = gradient - direction * np.sum(gradient * direction, axis=-1, keepdims=True)
    return np.divide(tangent, norms, out=np.zeros_like(tangent), where=norms > 1e-6)


def slopes(function, array, step=1e-6):
    """Returns the gradient of a function of a float64 array, by central differences."""
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = [array.copy(), array.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        result[index] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return result
