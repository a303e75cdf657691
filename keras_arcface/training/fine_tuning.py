"""Fine-tuning of a trained embedder with frozen stages or a learning rate per stage."""

import re
from collections.abc import Callable
from collections.abc import Iterator

import keras

from keras_arcface import _arguments

# Stage by name prefix, for layers whose names do not start with the name of their stage.
_STAGE_OF_PREFIX = {"embedding": "neck", "global": "last"}


def stages(embedder: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Returns the layers with weights of an embedder by stage name, from input to output.

    Use it to find the names for `freeze_below`. The stage of a layer is the part of its name before the first
    underscore. The networks of `keras_arcface.backbones` have `stem` and `neck`. In between, an IResNet has `stage1` to
    `stage4`; a MobileNetV1 `stage1` to `stage5`; a MobileFaceNet, GhostFaceNet or EdgeFace `stage1` to at most `stage6`
    and `last`; and a ViT `block1`, `block2` and so on, and `last`. The layer `embedding` belongs to the neck. Other
    networks with such names, for instance the ResNets of `keras.applications`, work as well.

    Args:
        embedder: new or loaded model of `make_embedder`.

    Returns:
        A dictionary from names of stages to lists of layers.

    Raises:
        ValueError: if no layer of the embedder has weights, for example because it is not built.

    Examples:
        >>> backbone = keras_arcface.backbones.IResNet((1, 1, 1, 1), width=8, input_shape=(32, 32, 3))
        >>> for name, layers in stages(make_embedder(backbone, dim=16)).items():
        ...     print(name, len(layers))
        stem 3
        stage1 8
        stage2 8
        stage3 8
        stage4 8
        neck 3
    """
    layers_by_stage: dict[str, list[keras.layers.Layer]] = {}
    for layer in _leaf_layers(embedder):
        if layer.weights:
            layers_by_stage.setdefault(_stage_of(layer.name), []).append(layer)
    if not layers_by_stage:
        raise ValueError(
            "embedder must be a built model with weights in its layers. "
            f"Received: {embedder.name!r} without weights, built={embedder.built}"
        )
    return layers_by_stage


def freeze_below(embedder: keras.Model, stage: str, batch_norm: bool = False) -> None:
    """Freezes all stages before a stage, and makes this stage and all later ones trainable.

    Use it to fine-tune a trained embedder with few images. Compile afterwards, with a new optimizer: a compiled model
    keeps the trainable weights of its compilation, and an optimizer is bound to its first weights.
    `embedder.trainable = False` trains only the head. `freeze_below(embedder, "stem", batch_norm=True)` makes all
    weights trainable, as in a new embedder.

    The scale, offset and statistics of BatchNorm layers in frozen stages do not change. By default, those in trained
    stages do not change either, because a few images of a few people are a poor sample: with the momentum 0.9 of these
    networks, about 25 batches replace the statistics of a million faces. Train them on many images that differ from the
    original ones, such as infrared images.

    Args:
        embedder: new or loaded model of `make_embedder`.
        stage: key of `stages(embedder)`, such as "neck" or "stage4".
        batch_norm: if true, BatchNorm layers of the trained stages are trained and update their statistics.

    Raises:
        ValueError: if the embedder does not have the stage.

    Examples:
        >>> freeze_below(model.embedder, "neck")
        >>> model.compile(keras.optimizers.Adam(1e-3))  # again, with a new optimizer
        >>> [weight.path for weight in model.embedder.trainable_weights]
        ['neck_dense/kernel']
    """
    layers_by_stage = stages(embedder)
    if stage not in layers_by_stage:
        raise ValueError(
            f"stage must be one of {', '.join(layers_by_stage)}, the stages of {embedder.name!r}. "
            f"Received: stage={stage!r}"
        )
    embedder.trainable = True  # otherwise all layers of a frozen model stay frozen
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

    Use it to fine-tune all stages of a trained embedder. The learning rate of the head is `learning_rate`, that of
    the neck `learning_rate * decay`, that of the last stage `learning_rate * decay**2`, and so on, because features
    near the input are useful for all faces and should change least. Frozen stages have no optimizer, so call
    `freeze_below` first.

    Wrap it in `GradientAccumulationOptimizer` for clipping over all stages, and for gradient accumulation.

    Args:
        embedder: embedder of the model to compile.
        make_optimizer: function from a learning rate to a new optimizer, such as `keras.optimizers.Adam`.
        learning_rate: learning rate of the head, and of all other variables outside of the embedder.
        decay: factor from a stage to the one before it, in (0, 1].

    Returns:
        A `keras.optimizers.MultiOptimizer`, whose `optimizers` are those of the stages from the neck to the input,
        followed by that of the head.

    Raises:
        ValueError: if `decay` is outside of (0, 1].

    Examples:
        >>> freeze_below(model.embedder, "stem")  # trains all stages
        >>> optimizer = layerwise_lr_decay(model.embedder, keras.optimizers.SGD, learning_rate=0.01, decay=0.5)
        >>> [round(float(part.learning_rate), 5) for part in optimizer.optimizers]  # neck, stage1, stem, head
        [0.005, 0.0025, 0.00125, 0.01]
        >>> model.compile(optimizer)

        With a schedule:

        >>> def make_optimizer(learning_rate):
        ...     return CoupledSGD(CosineSchedule(learning_rate, total=10, steps_per_epoch=100))
        >>> model.compile(layerwise_lr_decay(model.embedder, make_optimizer, learning_rate=0.01))

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
    """Returns a regular expression that matches the variable paths of a stage in new and loaded models."""
    prefixes = [stage, *(prefix for prefix, owner in _STAGE_OF_PREFIX.items() if owner == stage)]
    return rf"(.*/)?({'|'.join(map(re.escape, prefixes))})(_[^/]*)?/.*"
