"""What a training should look like at its first step."""

import math

import keras
import numpy as np

from keras_arcface.layers import MarginProduct
from keras_arcface.margins import Batch

# So many random embeddings against so many random centers: enough for the mean loss to about 1%.
_EMBEDDINGS, _CENTERS = 256, 20_000


def expected_first_loss(head, dim: int, seed: int = 0) -> float:
    """The mean loss of embeddings that know nothing yet, for this head's classes, scale and margin.

    A fresh network's embeddings point anywhere: their cosines to the class centers have mean 0 and variance `1 / dim`.
    The loss of a right head starts close to this figure. One that starts elsewhere has another number of classes, scale
    or margin than it should, or labels that are not those of the head.

    Args:
        head: a `MarginProduct` such as `ArcFace`, built or not; with a warm-up, as it is at its first step.
        dim: length of the embeddings.
        seed: of the random embeddings.

    Returns:
        The loss.

    Raises:
        ValueError: for a head without a scale, whose first loss depends on how long embeddings are.
    """
    if not isinstance(head, MarginProduct):
        raise ValueError(f"expected_first_loss is for a MarginProduct, such as ArcFace. Received: {head!r}")
    generator = np.random.default_rng(seed)
    scale, strength = head.scale, 1.0
    if head.warmup_steps:
        scale, strength = head.initial_scale or head.scale, 0.0
    num_classes = math.ceil(head.sample_rate * head.num_classes)
    drawn = 1 + min(num_classes - 1, _CENTERS // head.sub_centers)
    targets, *others = _cosines(generator, drawn, head.sub_centers, dim)
    penalized = targets
    extra = 0.0
    if head.margin is not None:
        batch = _batch(generator.integers(0, head.num_classes, _EMBEDDINGS), head.margin, dim)
        margin = head.margin.for_batch(batch) if hasattr(head.margin, "for_batch") else head.margin
        wanted = keras.ops.convert_to_numpy(margin(keras.ops.convert_to_tensor(targets.astype(np.float32))))
        penalized = targets - strength * (targets - wanted)
        regularizer = head.margin.regularizer(batch) if hasattr(head.margin, "regularizer") else None
        extra = 0.0 if regularizer is None else keras.ops.convert_to_numpy(regularizer)
    # The other classes, of which there may be more than were drawn.
    others = np.stack(others)
    counts = others <= head.ignored_above
    if head.binary:
        bias = math.log(10 * head.num_classes * head.sample_rate)
        of_others = np.where(counts, np.logaddexp(0, scale * others - bias), 0.0).mean(axis=0) * (num_classes - 1)
        return float(np.mean(np.logaddexp(0, bias - scale * penalized) + head.negatives_weight * of_others + extra))
    if head.negatives is not None:
        given = [keras.ops.convert_to_tensor(array.astype(np.float32)) for array in (others, penalized[None])]
        others = keras.ops.convert_to_numpy(head.negatives(*given, head.negatives.start)).astype(np.float64)
    negatives = scale * others
    highest = negatives.max(axis=0)
    counted = np.where(counts, np.exp(negatives - highest), 0.0)
    total = highest + np.log(counted.mean(axis=0) * (num_classes - 1))
    own = scale * penalized
    everyone = (negatives.mean(axis=0) * (num_classes - 1) + own) / num_classes
    wanted = (1 - head.label_smoothing) * own + head.label_smoothing * everyone
    return float(np.mean(np.logaddexp(total, own) - wanted + extra))


def _batch(labels, margin, dim):
    """What a margin is told of embeddings that come out of a BatchNorm: their norms are `sqrt(dim)`."""
    norms = keras.ops.full((len(labels),), math.sqrt(dim), dtype="float32")
    state = {name: keras.ops.convert_to_tensor(value) for name, value in getattr(margin, "start", {}).items()}
    return Batch(keras.ops.convert_to_tensor(labels), norms, None, lambda v: v, lambda v: v, state)


def _cosines(generator, num_classes, sub_centers, dim):
    """Cosines between random directions, `(num_classes, embeddings)`: one coordinate of a random unit vector."""
    first = generator.normal(size=(num_classes, sub_centers, _EMBEDDINGS))
    cosines = first / np.sqrt(first**2 + generator.chisquare(dim - 1, first.shape)) if dim > 1 else np.sign(first)
    return cosines.max(axis=1)
