"""Copies, saved files, backbones and repeated construction of models as in ordinary Keras."""

import copy
import json
import os
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_models import CLASSES
from tiny_models import EAGER_IF_FASTER
from tiny_models import SHAPE
from tiny_models import assert_same_weights
from tiny_models import fit
from tiny_models import make_functional
from tiny_models import make_images
from tiny_models import make_model
from tiny_models import make_small_embedder

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.models import make_embedder

IMAGES, LABELS = make_images()


def predict(model):
    return model.predict(IMAGES, verbose=0)


@pytest.fixture(scope="module")
def trained():
    model = make_model()
    fit(model)
    return model


def test_a_clone_of_an_embedder_has_its_layers_and_other_weights(trained):
    clone = keras.models.clone_model(trained.embedder)
    assert clone.get_config() == trained.embedder.get_config()
    assert not np.array_equal(clone.get_weights()[0], trained.embedder.get_weights()[0])
    clone.set_weights(trained.embedder.get_weights())
    np.testing.assert_array_equal(predict(clone), predict(trained))


def test_a_clone_of_a_functional_model_with_a_head_trains():
    model = make_functional(scale=8.0)
    clone = keras.models.clone_model(model)
    head = clone.layers[-1]
    assert isinstance(head, ArcFace)
    assert head.get_config() == model.layers[-1].get_config()
    assert head is not model.layers[-1]
    assert clone.compiled
    clone.set_weights(model.get_weights())
    fit(clone, [IMAGES, LABELS], LABELS)
    assert not np.array_equal(clone.get_weights()[0], model.get_weights()[0])


def test_a_clone_of_a_recognition_model_is_built_and_compiled(trained):
    clone = keras.models.clone_model(trained)
    assert (clone.built, clone.compiled) == (True, True)
    assert not np.array_equal(clone.get_weights()[0], trained.get_weights()[0])
    clone.set_weights(trained.get_weights())
    np.testing.assert_array_equal(predict(clone), predict(trained))
    fit(clone)
    assert not np.array_equal(clone.get_weights()[0], trained.get_weights()[0])
    with pytest.raises(ValueError, match="only supported for Sequential models or Functional models"):
        keras.models.clone_model(trained, clone_function=lambda layer: layer)


def test_a_config_rebuilds_the_model(trained):
    config = json.loads(json.dumps(trained.get_config()))
    model = RecognitionModel.from_config(config)
    assert (model.built, model.compiled, model.name) == (True, False, trained.name)
    model.set_weights(trained.get_weights())
    np.testing.assert_array_equal(predict(model), predict(trained))
    assert keras.models.model_from_json(trained.to_json()).to_json() == trained.to_json()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_have_the_weights_and_the_optimizer(duplicate, trained):
    other = duplicate(trained)
    assert_same_weights(other, trained)
    assert_same_weights(other.optimizer, trained.optimizer)
    assert_same_weights(duplicate(trained.embedder), trained.embedder)
    assert_same_weights(duplicate(trained.head), trained.head)


def test_a_model_is_built_by_its_constructor(tmp_path):
    model, other = make_model(seed=1), make_model(seed=2)
    model.save_weights(tmp_path / "untrained.weights.h5")
    other.load_weights(tmp_path / "untrained.weights.h5")
    assert_same_weights(other, model)
    model.save(tmp_path / "untrained.keras")
    # Keras builds the optimizer of every built model that it loads, and warns if that of the file was not built.
    assert_same_weights(keras.saving.load_model(tmp_path / "untrained.keras", compile=False), model)
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "unbuilt" not in text
    assert f"Total params: {model.count_params():,}" in text
    assert "(None, 8)" in text


class WithTwoMoreLayers(RecognitionModel):
    """A subclass with a layer that is added after the constructor, and a `build` that uses another one."""

    def __init__(self, embedder, head, **kwargs):
        super().__init__(embedder, head, **kwargs)
        self.first = keras.layers.Dense(8)
        self.second = keras.layers.Dense(8)

    def build(self, input_shape):
        super().build(input_shape)
        self.first.build((None, 8))
        self.second.build((None, 8))

    def call(self, images, training=None):
        return self.second(self.first(super().call(images, training=training)))


class WithOneMoreLayer(RecognitionModel):
    def __init__(self, embedder, head, **kwargs):
        super().__init__(embedder, head, **kwargs)
        self.more = keras.layers.Dense(8)

    def call(self, images, training=None):
        return self.more(super().call(images, training=training))


@pytest.mark.parametrize("cls", [WithTwoMoreLayers, WithOneMoreLayer])
def test_a_subclass_can_add_layers(cls):
    model = cls(make_small_embedder(), ArcFace(CLASSES, scale=16.0))
    model.compile("sgd", **EAGER_IF_FASTER)
    model.train_on_batch(IMAGES, LABELS)
    names = {weight.path.split("/")[-2] for weight in model.trainable_weights}
    assert len([name for name in names if name.startswith("dense")]) == {WithTwoMoreLayers: 2, WithOneMoreLayer: 1}[cls]


@keras.saving.register_keras_serializable(package="tests")
class SubclassedEmbedder(keras.Model):
    """An embedder without symbolic inputs, whose output shape only its `call` knows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(8)

    def call(self, images):
        return self.dense(self.flatten(keras.ops.cast(images, "float32") / 127.5 - 1))


def test_a_subclassed_embedder_trains_and_is_saved(tmp_path):
    model = RecognitionModel(SubclassedEmbedder(), ArcFace(CLASSES, scale=16.0))
    model.compile("sgd")
    fit(model)
    assert model.built
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded), predict(model), atol=1e-6)


class Choices:
    """The methods of the hyperparameters of Keras Tuner that a `build(hp)` uses, with a fixed choice each."""

    def __init__(self, **values):
        self.values = values

    def Float(self, name, min_value, max_value, sampling=None):
        assert min_value <= self.values[name] <= max_value
        return self.values[name]

    def Choice(self, name, values):
        assert self.values[name] in values
        return self.values[name]


def build(hp):
    head = ArcFace(CLASSES, margin=hp.Float("margin", 0.1, 0.6), scale=hp.Choice("scale", [8.0, 16.0, 32.0]))
    model = RecognitionModel(make_small_embedder(), head)
    model.compile(keras.optimizers.SGD(hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")), **EAGER_IF_FASTER)
    return model


@pytest.mark.slow
def test_a_tuner_builds_several_models_in_one_process():
    trials = [(0.2, 8.0, 0.01), (0.5, 32.0, 0.001), (0.2, 8.0, 0.01)]
    losses = []
    for margin, scale, learning_rate in trials:
        keras.utils.set_random_seed(0)
        model = build(Choices(margin=margin, scale=scale, learning_rate=learning_rate))
        assert (model.head.margin.m2, model.head.scale) == (margin, scale)
        losses.append(fit(model)["loss"][0])
        keras.backend.clear_session()
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=0.1)


def application(name, size=32, **options):
    options = {"input_shape": (size, size, 3), "include_top": False, "weights": None, **options}
    return getattr(keras.applications, name)(**options)


@pytest.mark.slow
def test_a_network_of_keras_applications_trains_as_backbone(tmp_path):
    backbone = application("MobileNet", alpha=0.25)
    model = RecognitionModel(make_embedder(backbone, dim=8), ArcFace(CLASSES, scale=16.0))
    model.compile("sgd")
    images = keras.ops.convert_to_numpy(keras.ops.image.resize(IMAGES, (32, 32))).astype("uint8")
    before = backbone.get_weights()[0]
    assert np.isfinite(model.fit(images, LABELS, batch_size=8, verbose=0).history["loss"]).all()
    assert not np.array_equal(backbone.get_weights()[0], before)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "ConvNeXtTiny"])
def test_a_backbone_that_rescales_pixels_itself_gets_them_unchanged(name):
    backbone = application(name)
    with pytest.raises(ValueError, match=r"normalize_pixels must be False, because the backbone .* rescales pixels"):
        make_embedder(backbone, dim=8)
    embedder = make_embedder(backbone, dim=8, normalize_pixels=False)
    names = [layer.name for layer in embedder.layers]
    assert names == ["images", backbone.name, *names[2:]]
    assert RecognitionModel(embedder, ArcFace(CLASSES))._rescales_pixels  # so it warns about pixels in 0..1


def test_pixels_of_a_backbone_without_rescaling_can_stay_in_0_to_255():
    backbone = keras.Sequential([keras.Input(SHAPE), keras.layers.Identity()])
    assert RecognitionModel(make_embedder(backbone, dim=8), ArcFace(CLASSES))._rescales_pixels
    embedder = make_embedder(backbone, dim=8, normalize_pixels=False)
    assert not RecognitionModel(embedder, ArcFace(CLASSES))._rescales_pixels
    pixels = keras.Model(embedder.inputs, embedder.get_layer("neck_bn").input)
    np.testing.assert_array_equal(predict(pixels), IMAGES.astype("float32"))


def test_a_backbone_of_unknown_size_is_refused():
    backbone = application("MobileNet", input_shape=None)
    with pytest.raises(ValueError, match=r"of known size as its output.*'mobilenet.* with output shape"):
        make_embedder(backbone)


# Three ways of loading a saved model in a process in which the classes may not be registered yet.
LOADING = {
    "keras first": "import keras\nimport keras_arcface",
    "a name first": """
import sys
import keras_arcface

loaded = {"keras", "tensorflow", "jax", "numpy"} & set(sys.modules)
assert not loaded, loaded
from keras_arcface import ArcFace
import keras
""",
}
LOAD = """
import sys
model = keras.saving.load_model(sys.argv[1])
assert type(model) is keras_arcface.RecognitionModel
assert type(model.head) is keras_arcface.ArcFace
"""


@pytest.mark.slow
@pytest.mark.parametrize("imports", LOADING)
def test_a_saved_model_loads_in_another_process(imports, trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    command = [sys.executable, "-c", f"{LOADING[imports]}\n{LOAD}", str(tmp_path / "model.keras")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
