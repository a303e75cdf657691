"""Checks that every head and every registered object must pass.

They follow the idea of `run_layer_test` in Keras: one call checks the config, the shapes, training and saving.
"""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_arcface import RecognitionModel
from keras_arcface.layers import AuxiliaryLossHead


def parameters_of(cls):
    """Returns the parameters of a constructor that this package defines, `{name: default}`."""
    if not cls.__init__.__module__.startswith("keras_arcface"):
        return {}
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {each.name: each.default for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}


def check_config(cls, arguments):
    """Checks that an object survives its config, its serialized form and JSON.

    Args:
        cls: A registered class.
        arguments: Keyword arguments for it, none of which has its default value.
    """
    defaults = parameters_of(cls)
    for name, value in arguments.items():
        assert name not in defaults or value != defaults[name], f"{name} has its default value"
    instance = cls(**arguments)
    config = instance.get_config()
    for name, value in arguments.items():
        plain = keras.saving.serialize_keras_object(value)
        assert config[name] == plain, f"{name} is {config[name]!r} in the config"
    text = json.dumps(keras.saving.serialize_keras_object(instance))
    for copy in (cls.from_config(instance.get_config()), keras.saving.deserialize_keras_object(json.loads(text))):
        assert type(copy) is cls
        assert json.dumps(keras.saving.serialize_keras_object(copy)) == text
        assert set(vars(copy)) == set(vars(instance))
        if " at 0x" not in repr(instance):
            assert repr(copy) == repr(instance)


def check_head(make, embeddings, labels, folder):
    """Checks what every head must do.

    Args:
        make: A function without arguments that returns a new head.
        embeddings: `(batch, dim)` float32 array.
        labels: `(batch,)` integer array.
        folder: Path of an empty folder for saved models.
    """
    head = make()
    assert type(head).__name__ in repr(head)
    assert head.name in repr(head)
    check_weights(head, embeddings, labels)
    check_outputs(head, embeddings, labels)
    check_refusals(head, embeddings, labels)
    check_mixed_precision(head, embeddings, labels)
    check_training_and_saving(head, embeddings, labels, folder)


def check_weights(head, embeddings, labels):
    """Checks that `build` makes the same weights as a first call, and that no other call makes more."""
    called = type(head).from_config(head.get_config())
    head.build((None, embeddings.shape[1]))
    before = [weight.path for weight in head.weights]
    called(embeddings)
    assert [(w.shape, w.dtype) for w in called.weights] == [(w.shape, w.dtype) for w in head.weights]
    head(embeddings)
    head.loss_and_stats(labels, embeddings, training=True)
    assert [weight.path for weight in head.weights] == before
    assert {weight.dtype for weight in head.trainable_weights} <= {"float32"}


def check_outputs(head, embeddings, labels):
    """Checks shapes and dtypes of calls and losses, symbolic calls, and that logits and loss agree."""
    losses, cosines, hits = head.loss_and_stats(labels, embeddings)
    assert [tuple(result.shape) for result in (losses, cosines, hits)] == [(len(labels),)] * 3
    dtypes = [keras.backend.standardize_dtype(result.dtype) for result in (losses, cosines, hits)]
    assert dtypes == ["float32", "float32", "bool"]
    np.testing.assert_array_equal(head.loss(labels, embeddings), losses)
    inputs = [keras.Input(embeddings.shape[1:]), keras.Input((), dtype="int32")]
    calls = [[embeddings], [embeddings, labels]][: 2 if _takes_labels(head) else 1]
    missing = head.missing_from_logits()
    for call in calls:
        output = head(*call)
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
        assert np.isfinite(ops.convert_to_numpy(output)).all()
        if missing and len(call) == 2:
            with pytest.raises(ValueError, match="cannot be trained by its logits"):
                head(*inputs)
        else:
            symbolic = head(*inputs[: len(call)])
            assert symbolic.shape == (None, *output.shape[1:])
            assert symbolic.dtype == "float32"
    if head.num_classes is not None and not missing:
        expected = keras.losses.sparse_categorical_crossentropy(labels, output, from_logits=True)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def check_refusals(head, embeddings, labels):
    """Checks that wrong dtypes are refused and that a wrong label makes its own loss NaN."""
    for dtype in ("float16", "bfloat16", "mixed_float16", "float64"):
        # Keras wraps an error of the constructor into a TypeError.
        with pytest.raises((TypeError, ValueError), match=f"Received: dtype='{dtype}'"):
            type(head).from_config({**head.get_config(), "dtype": dtype})
    one_hot = np.eye(head.num_classes or labels.max() + 1, dtype="int32")[labels]
    for wrong in (labels.astype("float32"), one_hot, labels[:-1]):
        with pytest.raises(ValueError, match="Received: labels"):
            head.loss(wrong, embeddings)
    for label in (-1, head.num_classes or -1):
        wrong = np.where(np.arange(len(labels)) == 2, label, labels)
        losses, _, hits = map(ops.convert_to_numpy, head.loss_and_stats(wrong, embeddings))
        assert np.isnan(losses[2])
        assert not hits[2]
        if head.num_classes is not None:
            np.testing.assert_array_equal(np.isnan(losses), np.arange(len(labels)) == 2)
        if _takes_labels(head):
            logits = ops.convert_to_numpy(head(embeddings, wrong))
            np.testing.assert_array_equal(np.isnan(logits).any(axis=1), np.arange(len(labels)) == 2)


def check_mixed_precision(head, embeddings, labels):
    """Checks that a head computes in float32, whatever the global policy and the dtype of the embeddings."""
    before = keras.config.dtype_policy()
    for dtype in ("bfloat16", "float16"):
        rounded = ops.cast(embeddings, dtype)
        exact = ops.cast(rounded, "float32")
        keras.config.set_dtype_policy(f"mixed_{dtype}")
        try:
            copy = type(head).from_config(head.get_config())
            copy.build((None, embeddings.shape[1]))
            copy.set_weights(head.get_weights())
            assert {weight.dtype for weight in copy.trainable_weights} <= {"float32"}
            output = copy(rounded)
            assert keras.backend.standardize_dtype(output.dtype) == "float32"
            np.testing.assert_array_equal(output, head(exact))
        finally:
            keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(copy.loss(labels, rounded), head.loss(labels, exact))


def check_training_and_saving(head, embeddings, labels, folder):
    """Checks that all trainable weights learn, and that a saved and loaded model is the same."""
    keras.utils.set_random_seed(1)
    dim = embeddings.shape[1]
    model = RecognitionModel(keras.Sequential([keras.Input((dim,)), keras.layers.Dense(dim)]), head)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    before = [ops.convert_to_numpy(weight).copy() for weight in model.trainable_weights]
    history = model.fit(embeddings, labels, batch_size=len(labels), epochs=3, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.isfinite(ops.convert_to_numpy(weight)).all(), weight.path
        assert not np.array_equal(ops.convert_to_numpy(weight), old), weight.path
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    assert type(loaded.head) is type(head)
    assert json.dumps(loaded.head.get_config()) == json.dumps(head.get_config())
    variables = [[*each.weights, *each.optimizer.variables] for each in (model, loaded)]
    for ours, theirs in zip(*variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), err_msg=ours.path)
    np.testing.assert_array_equal(loaded(embeddings), model(embeddings))
    np.testing.assert_array_equal(loaded.head(embeddings), head(embeddings))


def _takes_labels(head):
    """Returns whether labels change what a call of the head returns."""
    innermost = head
    while isinstance(innermost, AuxiliaryLossHead):
        innermost = innermost.head
    return "labels" in inspect.signature(innermost.call).parameters
