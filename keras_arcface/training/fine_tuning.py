"""Fine-tuning of a trained embedder: frozen stages, and learning rates per stage."""

import re
from collections.abc import Callable
from collections.abc import Iterator

import keras

from keras_arcface import _arguments

# Stages of layers whose names do not start with the name of their stage.
_STAGE_OF_PREFIX = {"embedding": "neck", "global": "last"}


def stages(embedder: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Returns the stages of an embedder from input to output: the layers with weights by stage name.

    The stage of a layer is the part of its name before the first underscore. An IResNet has `stem`, `stage1` to
    `stage4` and `neck`; a MobileFaceNet has `stage1` to `stage6`, and `last` before the neck. The layer `embedding`
    belongs to the neck. Other networks with such names, for instance the ResNets of `keras.applications`, work as well.

    >>> list(stages(embedder))[-1]
    'neck'

    Args:
        embedder: a model of `make_embedder`, new or loaded.
    """
    layers_by_stage: dict[str, list[keras.layers.Layer]] = {}
    for layer in _leaf_layers(embedder):
        if layer.weights:
            layers_by_stage.setdefault(_stage_of(layer.name), []).append(layer)
    return layers_by_stage


def freeze_below(embedder: keras.Model, stage: str, batch_norm: bool = False) -> None:
    """Freezes all stages before a stage, and makes this stage and all later ones trainable.

    >>> freeze_below(model.embedder, "neck")
    >>> model.compile(keras.optimizers.Adam(1e-3))  # compile again, with a new optimizer

    Compile afterwards, with a new optimizer: a compiled model keeps the trainable weights of its compilation, and an
    optimizer is bound to its first weights. `embedder.trainable = False` trains only the head.
    `freeze_below(embedder, "stem", batch_norm=True)` makes all weights trainable, as in a new embedder.

    BatchNorm layers of frozen stages do not change: scale, offset and statistics. By default those of trained stages do
    not change either, because a few images of a few people are a poor sample: with the momentum of these networks, 0.9,
    about 25 batches replace statistics of a million faces. Train them if the new images are many and differ from the
    old ones, such as infrared images.

    Args:
        embedder: a model of `make_embedder`, new or loaded.
        stage: a name of `stages(embedder)`, such as "neck" or "stage4".
        batch_norm: whether to train BatchNorm layers, and update their statistics, in the trained stages.

    Raises:
        ValueError: if the embedder has no such stage.
    """
    layers_by_stage = stages(embedder)
    if stage not in layers_by_stage:
        raise ValueError(
            f"stage must be one of {', '.join(layers_by_stage)}, the stages of {embedder.name!r}. "
            f"Received: stage={stage!r}"
        )
    embedder.trainable = True  # the layers of a frozen model count as frozen
    is_reached = False
    for name, layers in layers_by_stage.items():
        is_reached = is_reached or name == stage
        for layer in layers:
            layer.trainable = is_reached and (batch_norm or not isinstance(layer, keras.layers.BatchNormalization))


def layerwise_lr_decay(
    embedder: keras.Model,
    make_optimizer: Callable[[float], keras.optimizers.Optimizer],
    learning_rate: float,
    decay: float = 0.5,
) -> keras.optimizers.MultiOptimizer:
    """Returns an optimizer whose learning rate decreases from stage to stage towards the input.

    The head, which is new, has `learning_rate`, the neck `learning_rate * decay`, the last stage
    `learning_rate * decay**2`, and so on: features near the input are useful for all faces and should change least.
    Frozen stages get no optimizer, so call `freeze_below` first.

    >>> def sgd(learning_rate):
    ...     return CoupledSGD(CosineSchedule(learning_rate, total=10, steps_per_epoch=100))
    >>> model.compile(layerwise_lr_decay(model.embedder, sgd, learning_rate=0.01, decay=0.3))

    Wrap it in `GradientAccumulationOptimizer` for clipping over all stages, and for gradient accumulation.

    Args:
        embedder: embedder of the model to compile.
        make_optimizer: function from a learning rate to a new optimizer, such as `keras.optimizers.Adam`.
        learning_rate: learning rate of the head, and of all other variables outside of the embedder.
        decay: factor from a stage to the one before it, in (0, 1].

    Returns:
        A `keras.optimizers.MultiOptimizer`; its `optimizers` are those of the stages, from the neck to the input, then
        that of the head.

    Raises:
        ValueError: if `decay` is outside of (0, 1].

    References:
        - [Universal Language Model Fine-tuning](https://arxiv.org/abs/1801.06146), section 3.2
    """
    _arguments.check_number("decay", decay, lambda value: 0 < value <= 1, "in (0, 1]")
    optimizers = {}
    for depth, (name, layers) in enumerate(reversed(stages(embedder).items()), 1):
        if any(layer.trainable_weights for layer in layers):
            optimizers[_path_pattern(name)] = make_optimizer(learning_rate * decay**depth)
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(make_optimizer(learning_rate), optimizers))


def _leaf_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield from _leaf_layers(layer) if isinstance(layer, keras.Model) else [layer]


def _stage_of(layer_name: str) -> str:
    prefix = layer_name.split("_")[0]
    return _STAGE_OF_PREFIX.get(prefix, prefix)


def _path_pattern(stage: str) -> str:
    """Returns a regular expression for the variable paths of a stage, which also holds for a loaded model."""
    prefixes = [stage, *(prefix for prefix, owner in _STAGE_OF_PREFIX.items() if owner == stage)]
    return rf"(.*/)?({'|'.join(map(re.escape, prefixes))})(_[^/]*)?/.*"
