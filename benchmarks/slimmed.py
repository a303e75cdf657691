"""A MobileNetV1 with fewer channels, made from the weights of a wide one, as the start of a distillation."""

import keras
import numpy as np

from keras_arcface import backbones
from keras_arcface import models

# The smallest multiple of the mean variance that is added to the variances, so that the equations can be solved.
RIDGE = 1e-3
POSITIONS = 12_000


def slim(teacher, images, stages):
    """Makes a MobileNetV1 with fewer channels from another one.

    A pointwise convolution keeps the channels that contribute most to the next one: the standard deviation of a channel
    times the norm of its weights there. Its own weights for the channels that it still receives are fitted again, by
    least squares, to its former outputs. The dense layer, which has most of the weights, is factored by a singular
    value decomposition into a pointwise convolution, which is part of an additional last block, and a smaller dense
    layer.

    Args:
        teacher: embedder of a MobileNetV1 with the neck "E", such as SFace.
        images: images `(n, height, width, 3)` in 0..255 for the statistics, 256 for instance.
        stages: channels of the blocks, as for `MobileNetV1`. The last stage has one more block than that of the
            teacher.

    Returns:
        An embedder with embeddings of the same dimension.
    """
    old = _backbone(teacher)
    new = backbones.MobileNetV1(stages=stages, input_shape=old.input_shape[1:])
    blocks = [
        f"stage{stage}_block{block}" for stage, sizes in enumerate(stages, 1) for block in range(1, 1 + len(sizes))
    ]
    *blocks, last = blocks
    pixels = np.asarray(images, np.float32) / 127.5 - 1
    dense, offset = _dense_layer(teacher, old.output_shape[1:])
    for name in ("stem_conv", "stem_bn", "stem_prelu"):
        new.get_layer(name).set_weights(_weights(old, name))
    kept = np.arange(old.get_layer("stem_conv").filters)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        _copy(old, new, f"{block}_depthwise", kept)
        kernel = _weights(old, f"{block}_pointwise")[0]
        size = new.get_layer(f"{block}_pointwise").filters
        outputs = np.arange(kernel.shape[-1])
        if size < len(outputs):
            used = f"{following}_depthwise_prelu" if following else f"{block}_pointwise_prelu"
            rows = _weights(old, f"{following}_pointwise")[0] if following else dense
            deviations = _outputs(old, used, pixels).std(axis=(0, 1, 2))
            contributions = deviations * np.sqrt(np.square(rows).sum(axis=(0, 1, 3)))
            outputs = np.sort(np.argsort(-contributions)[:size])
        _copy(old, new, f"{block}_pointwise", outputs, kernel[:, :, kept])
        if len(kept) < kernel.shape[2]:
            inputs = _outputs(new, f"{block}_depthwise_prelu", pixels)
            wanted = _outputs(old, f"{block}_pointwise", pixels)[..., outputs]
            fitted, constant = _least_squares(inputs, wanted)
            new.get_layer(f"{block}_pointwise").set_weights([fitted[None, None]])
            norm = new.get_layer(f"{block}_pointwise_bn")
            norm.moving_mean.assign(norm.moving_mean - constant)
        kept = outputs
    student = models.make_embedder(new, dim=dense.shape[-1], dropout=0.0)
    _factor(dense[:, :, kept], offset, teacher, student, last, pixels)
    return student


def _factor(dense, offset, teacher, student, last, pixels):
    """Sets the weights of the last block and the neck to the factors of a dense layer."""
    backbone = _backbone(student)
    rank = backbone.get_layer(f"{last}_pointwise").filters
    rows, columns, channels, dim = dense.shape
    basis = np.linalg.svd(dense.transpose(2, 0, 1, 3).reshape(channels, -1), full_matrices=False)[0][:, :rank]
    center = np.zeros((3, 3, channels, 1), np.float32)
    center[1, 1] = 1
    backbone.get_layer(f"{last}_depthwise").set_weights([center])
    backbone.get_layer(f"{last}_pointwise").set_weights([basis[None, None]])
    for part in ("depthwise", "pointwise"):
        slopes = backbone.get_layer(f"{last}_{part}_prelu")
        slopes.set_weights([np.ones(slopes.alpha.shape)])
        _neutralize(backbone.get_layer(f"{last}_{part}_bn"), _outputs(backbone, f"{last}_{part}", pixels))
    _neutralize(student.get_layer("neck_bn"), _outputs(backbone, f"{last}_pointwise_prelu", pixels))
    core = np.einsum("cr,ijcd->ijrd", basis, dense).reshape(rows * columns * rank, dim)
    student.get_layer("neck_dense").set_weights([core])
    beta, mean, variance = teacher.get_layer("embedding").get_weights()
    student.get_layer("embedding").set_weights([beta, mean - offset, variance])


def _dense_layer(embedder, feature_map):
    """Returns the dense layer of the neck as `(rows, columns, channels, dim)`, after BatchNorm, and its constant."""
    norm = embedder.get_layer("neck_bn")
    gamma, beta, mean, variance = norm.get_weights()
    scale = gamma / np.sqrt(variance + norm.epsilon)
    kernel = embedder.get_layer("neck_dense").get_weights()[0].reshape(*feature_map, -1)
    return kernel * scale[:, None], np.einsum("c,ijcd->d", beta - mean * scale, kernel)


def _copy(old, new, name, channels, kernel=None):
    """Copies some channels of a convolution and of its BatchNorm and PReLU."""
    if kernel is None:
        kernel = _weights(old, name)[0]
        kernel = kernel[:, :, channels]
    else:
        kernel = kernel[..., channels]
    new.get_layer(name).set_weights([kernel])
    for part in ("bn", "prelu"):
        new.get_layer(f"{name}_{part}").set_weights([array[..., channels] for array in _weights(old, f"{name}_{part}")])


def _neutralize(norm, inputs):
    """Sets the weights of a BatchNorm so that it returns its inputs, also with the statistics of a batch."""
    mean, variance = inputs.mean(axis=(0, 1, 2)), inputs.var(axis=(0, 1, 2))
    norm.set_weights([np.sqrt(variance + norm.epsilon), mean, mean, variance])


def _least_squares(inputs, wanted):
    """Returns the weights and the constant of the linear function from `inputs` to `wanted`."""
    inputs, wanted = inputs.reshape(-1, inputs.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
    chosen = np.random.default_rng(0).permutation(len(inputs))[:POSITIONS]
    inputs, wanted = inputs[chosen].astype(np.float64), wanted[chosen].astype(np.float64)
    inputs_mean, wanted_mean = inputs.mean(axis=0), wanted.mean(axis=0)
    inputs, wanted = inputs - inputs_mean, wanted - wanted_mean
    squares = inputs.T @ inputs
    squares += RIDGE * np.trace(squares) / len(squares) * np.eye(len(squares))
    weights = np.linalg.solve(squares, inputs.T @ wanted)
    return weights, wanted_mean - inputs_mean @ weights


def _backbone(embedder):
    (backbone,) = (layer for layer in embedder.layers if isinstance(layer, keras.Model))
    return backbone


def _weights(model, name):
    return [np.asarray(weight) for weight in model.get_layer(name).get_weights()]


def _outputs(model, name, pixels):
    return keras.Model(model.input, model.get_layer(name).output).predict(pixels, batch_size=32, verbose=0)
