"""Expected loss of a head at the first training step."""

import math

import numpy as np
from keras import ops

from keras_arcface.layers.partial_fc import sampler
from keras_arcface.margins import Batch

# These limit the time. The minimum number of embeddings gives the mean loss to about 1%.
_MAX_CENTERS, _MIN_EMBEDDINGS, _NUM_COSINES = 20_000, 256, 5_000_000


def expected_first_loss(head, dim, seed):
    """Returns the mean loss of a `MarginProduct` for embeddings and centers in random directions.

    The cosines have mean 0 and variance `1 / dim`. The loss is computed with the reductions and `combine` of the head.
    """
    generator = np.random.default_rng(seed)
    scale, strength = head.scale, 1.0
    if head.warmup_steps:
        scale, strength = head.initial_scale or head.scale, 0.0
    num_classes = sampler.sample_size(head.num_classes, head.sample_rate, head.sample_groups)
    drawn = 1 + min(num_classes - 1, _MAX_CENTERS // head.sub_centers)
    rows = min(max(_NUM_COSINES // drawn, _MIN_EMBEDDINGS), _MAX_CENTERS)
    cosines = ops.convert_to_tensor(_random_cosines(generator, (rows, drawn, head.sub_centers), dim))
    batch = _batch(head.margin, generator.integers(0, head.num_classes, rows), dim)
    penalized = head._penalized(cosines[:, 0], batch, strength)
    inputs = {"scale": ops.convert_to_tensor(scale, "float32"), **head.initial_loss_inputs()}
    if head.negatives is not None:
        inputs["hardness"] = ops.convert_to_tensor(head.negatives.initial_weight, "float32")
    inputs["penalized_targets"] = penalized
    is_target = ops.expand_dims(ops.arange(drawn) == 0, 0)
    results = head._engine.of_cosines(cosines, is_target, inputs, (num_classes - 1) / (drawn - 1))
    losses = head.combine(results, penalized, inputs, num_classes)
    regularizer = head.margin.regularizer(batch)
    return float(ops.mean(losses if regularizer is None else losses + regularizer))


def _batch(margin, labels, dim):
    """Returns a `Batch` with embeddings of the norm `sqrt(dim)`, as after a BatchNorm."""
    norms = ops.full((len(labels),), math.sqrt(dim), dtype="float32")
    state = {name: ops.convert_to_tensor(value, "float32") for name, value in margin.initial_state.items()}
    return Batch(ops.convert_to_tensor(labels.astype("int32")), norms, None, lambda v: v, lambda v: v, state)


def _random_cosines(generator, shape, dim):
    """Returns random `(embeddings, classes)` cosines to the nearest sub-center of each class.

    A cosine between random directions is distributed like one coordinate of a random unit vector.
    """
    first = generator.normal(size=shape)
    cosines = first / np.sqrt(first**2 + generator.chisquare(dim - 1, first.shape)) if dim > 1 else np.sign(first)
    return cosines.max(axis=2).astype("float32")
