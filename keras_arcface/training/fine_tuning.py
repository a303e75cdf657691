"""Teaching a trained embedder something new: which stages learn, and how fast each of them."""

import re
from collections.abc import Callable

import keras

# What is not called after its stage.
_PART_OF = {"embedding": "neck", "global": "last"}


def stages(embedder: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """The stages of an embedder, from the pixels up: name -> its layers that have weights.

    A layer belongs to the stage that its name starts with, up to the first underscore: those of IResNet are `stem`,
    `stage1` to `stage4` and `neck`; MobileFaceNet has `stage1` to `stage6`, and `last` before the neck. The layer
    `embedding` is part of the neck. Networks that name their layers in this way, as the ResNets of `keras.applications`
    do, have stages too.

    Args:
        embedder: what `make_embedder` gives, new or loaded.
    """
    found: dict[str, list[keras.layers.Layer]] = {}
    for layer in _leaves(embedder):
        if layer.weights:
            found.setdefault(_stage_of(layer.name), []).append(layer)
    return found


def trainable_from(embedder: keras.Model, stage: str, batch_norm: bool = False) -> None:
    """Makes a stage and all above it trainable, and freezes what lies below.

    >>> trainable_from(model.embedder, "neck")
    >>> model.compile(keras.optimizers.Adam(1e-3))  # again, and with a new optimizer
    >>> # model.fit(...)
    >>> trainable_from(model.embedder, "stage4")
    >>> model.compile(layerwise(model.embedder, keras.optimizers.Adam, 3e-4))

    Compile afterwards, with a new optimizer: a model goes on with what was trainable when it was compiled, and an
    optimizer knows the weights that it has begun with, and no others. `embedder.trainable = False` leaves only the head
    to learn; `trainable_from(embedder, "stem", batch_norm=True)` makes everything as it was when new.

    BatchNorm in what is frozen stays as it is: scale, offset and statistics. It does so in what is trained as well,
    unless told otherwise, because a few images of a few people are a poor sample: with the momentum of these networks,
    0.9, two dozen batches replace statistics that came from a million faces. Let it move where the new images are many,
    and unlike the old ones, as infrared is.

    Args:
        embedder: what `make_embedder` gives, new or loaded.
        stage: a name of `stages(embedder)`, such as "neck" or "stage4".
        batch_norm: whether BatchNorm learns too, and gathers statistics, in the stages that are trained.

    Raises:
        ValueError: if there is no such stage, naming those that there are.
    """
    found = stages(embedder)
    if stage not in found:
        raise ValueError(
            f"stage expects one of {', '.join(found)}, the stages of {embedder.name!r}. Received: {stage!r}"
        )
    embedder.trainable = True  # a frozen model would hide what is trainable in it
    reached = False
    for name, layers in found.items():
        reached = reached or name == stage
        for layer in layers:
            layer.trainable = reached and (batch_norm or not isinstance(layer, keras.layers.BatchNormalization))


def layerwise(
    embedder: keras.Model,
    make_optimizer: Callable[[float], keras.optimizers.Optimizer],
    rate: float,
    decay: float = 0.5,
) -> keras.optimizers.MultiOptimizer:
    """Gives each stage a learning rate of its own, lower the deeper it lies.

    The head, which is new, learns at `rate`, the neck at `rate * decay`, the last stage at `rate * decay**2`, and so on
    down: what lies deep is of use for all faces, and should move least. Stages that are frozen get no optimizer, so
    call `trainable_from` first.

    >>> def sgd(rate):
    ...     return CoupledSGD(CosineSchedule(rate, total=10, steps_per_epoch=100))
    >>> model.compile(layerwise(model.embedder, sgd, rate=0.01, decay=0.3))

    Clipping over all of them and gradients of several steps: `WholeBatchOptimizer(layerwise(...), ...)`.

    Args:
        embedder: of the model that is compiled.
        make_optimizer: learning rate -> a new optimizer, such as `keras.optimizers.Adam`.
        rate: of the head, and of whatever else is not the embedder's.
        decay: factor from a stage to the one below, in (0, 1].

    Returns:
        A `keras.optimizers.MultiOptimizer`; `optimizers` has the stages' from the neck down, and the head's last.

    Raises:
        ValueError: for a decay outside (0, 1].

    References:
        - [Universal Language Model Fine-tuning](https://arxiv.org/abs/1801.06146), section 3.2
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1]. Received: decay={decay}")
    optimizers = {}
    for depth, (name, layers) in enumerate(reversed(stages(embedder).items()), 1):
        if any(layer.trainable_weights for layer in layers):
            optimizers[_paths_of(name)] = make_optimizer(rate * decay**depth)
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(make_optimizer(rate), optimizers))


def _leaves(model):
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


def _stage_of(layer_name: str) -> str:
    start = layer_name.split("_")[0]
    return _PART_OF.get(start, start)


def _paths_of(stage: str) -> str:
    """Regular expression for the paths of a stage's variables: by name, so that it holds for a loaded model too."""
    starts = [stage, *(start for start, whole in _PART_OF.items() if whole == stage)]
    return rf"(.*/)?({'|'.join(map(re.escape, starts))})(_[^/]*)?/.*"
