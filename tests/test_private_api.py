"""Private API of TensorFlow and Keras: when a new release breaks one, the failing test says which."""

import importlib.metadata
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_arcface
from keras_arcface import _private_api

VERSIONS = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")}
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the TensorFlow backend alone")


@needs_tensorflow
def test_xla_context_and_dynamic_update_slice():
    import tensorflow as tf

    seen = []

    def write(array):
        seen.append(_private_api.is_in_xla_context())
        return _private_api.xla_dynamic_update_slice(array, tf.ones((1, 2)), [1, 0])

    result = tf.function(write, jit_compile=True)(tf.zeros((3, 2)))
    assert np.array_equal(result, [[0, 0], [1, 1], [0, 0]]), VERSIONS
    assert seen == [True], VERSIONS
    assert not _private_api.is_in_xla_context(), VERSIONS


@needs_tensorflow
def test_xla_rounds_to_bfloat16():
    import tensorflow as tf

    result = tf.function(_private_api.xla_round_to_bfloat16, jit_compile=True)(tf.constant([1 + 2**-9, 1 + 2**-7]))
    assert np.array_equal(result, [1, 1 + 2**-7]), VERSIONS


@needs_tensorflow
def test_variables_become_constants():
    import tensorflow as tf

    variable = tf.Variable([2.0])
    function = tf.function(lambda x: x * variable).get_concrete_function(tf.TensorSpec((1,)))
    frozen = _private_api.freeze_variables(function)
    variable.assign([5.0])
    assert frozen(tf.constant([3.0]))[0].numpy() == 6.0, VERSIONS


def test_a_symbolic_call_leaves_a_node():
    layer = keras.layers.Dense(1)
    assert _private_api.inbound_nodes(layer) == [], VERSIONS
    layer(keras.Input((2,)))
    assert len(_private_api.inbound_nodes(layer)) == 1, VERSIONS


def test_layers_in_layers_are_built():
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(2)

        def build(self, shape):
            """Does not build the inner layer, which Keras builds when it is called."""

        def call(self, inputs):
            return self.inner(inputs)

    layer = Outer()
    layer.build((None, 4))
    assert layer.built, VERSIONS
    assert not _private_api.are_all_layers_built(layer), VERSIONS
    layer(np.zeros((1, 4)))
    assert _private_api.are_all_layers_built(layer), VERSIONS


def test_inner_layers_see_the_training_argument_of_the_outer_call():
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, inputs):
            seen.append(_private_api.training_of_current_call())
            return inputs

    model = keras.Sequential([keras.Input((2,)), Spy()])
    seen.clear()
    for training in (True, False):
        model(np.zeros((1, 2), "float32"), training=training)
    assert seen == [True, False], VERSIONS
    assert _private_api.training_of_current_call() is None, VERSIONS


def test_an_optimizer_knows_its_variables():
    first, second = keras.Variable([1.0]), keras.Variable([2.0])
    optimizer = keras.optimizers.SGD()
    optimizer.build([first, second])
    assert _private_api.variable_index(optimizer, second) == 1, VERSIONS
    updated = _private_api.variables_to_update(optimizer)
    assert len(updated) == 2, VERSIONS
    assert updated[0] is first, VERSIONS


def test_no_other_file_uses_private_modules():
    private = re.compile(r"tensorflow\.(python|compiler)\b|keras\.src\b|tf\.__internal__")
    files = [file for file in Path(keras_arcface.__file__).parent.rglob("*.py") if private.search(file.read_text())]
    assert [file.name for file in files] == ["_private_api.py"]
