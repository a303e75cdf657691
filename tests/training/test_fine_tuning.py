import keras
import numpy as np
import pytest
import small
from conftest import make_face

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.backbones import IResNet
from keras_arcface.backbones import MobileFaceNet
from keras_arcface.models import make_embedder
from keras_arcface.training import CoupledSGD
from keras_arcface.training import GradientAccumulationOptimizer
from keras_arcface.training import freeze_below
from keras_arcface.training import layerwise_lr_decay
from keras_arcface.training import stages

IMAGES = np.stack([make_face(person, image) for image in range(2) for person in range(4)])
LABELS = np.arange(8) % 4
BACKBONES = {
    "iresnet": lambda: IResNet((1, 1, 1, 1), width=16, input_shape=(32, 32, 3)),
    "mobilefacenet": lambda: MobileFaceNet(width=16, input_shape=(32, 32, 3)),
}
STAGES = {
    "iresnet": ["stem", "stage1", "stage2", "stage3", "stage4", "neck"],
    "mobilefacenet": ["stem", "stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "last", "neck"],
}


def make_model(backbone="iresnet"):
    embedder = make_embedder(BACKBONES[backbone](), dim=8, dropout=0.0)
    model = RecognitionModel(embedder, ArcFace(4, scale=8.0, name="head"), name="model")
    model.build((None, 32, 32, 3))
    return model


def fit(model):
    model.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
    return values(model)


def values(model):
    """Returns all weights and statistics by their path within the embedder or the head."""
    return {path_of(weight): keras.ops.convert_to_numpy(weight).copy() for weight in model.weights}


def path_of(weight):
    return weight.path.removeprefix("model/")


def stage_of(path):
    first = path.split("/")[0].split("_")[0]
    return {"embedding": "neck", "global": "last"}.get(first, first)


def changes_in_training(path, batch_norm):
    """Returns whether training changes a variable if its stage is not frozen."""
    layer, variable = path.split("/")
    if layer == "head":
        return variable in ("centers", "steps")
    return batch_norm or variable not in ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stages_are_ordered_from_input_to_output(backbone):
    embedder = make_model(backbone).embedder
    found = stages(embedder)
    assert list(found) == STAGES[backbone]
    weights = [weight.path for layers in found.values() for layer in layers for weight in layer.weights]
    assert sorted(weights) == sorted(weight.path for weight in embedder.weights)


@pytest.mark.parametrize(
    ("backbone", "stage", "batch_norm"),
    [
        ("iresnet", "neck", False),
        ("iresnet", "stage4", False),
        ("iresnet", "stage4", True),
        ("iresnet", "stem", True),
        ("mobilefacenet", "last", False),
    ],
)
def test_frozen_variables_stay_equal_and_all_others_change(backbone, stage, batch_norm):
    model = make_model(backbone)
    freeze_below(model.embedder, stage, batch_norm)
    # On TensorFlow a few eager steps are faster than tracing a step; on JAX they are slower.
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    before, after = values(model), fit(model)
    trained = [*STAGES[backbone][STAGES[backbone].index(stage) :], "head"]
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {path for path in before if stage_of(path) in trained and changes_in_training(path, batch_norm)}


def test_a_later_call_replaces_an_earlier_one():
    embedder = make_model().embedder
    freeze_below(embedder, "stem", batch_norm=True)
    everything = len(embedder.trainable_weights)
    freeze_below(embedder, "stage4")
    embedder.trainable = False
    freeze_below(embedder, "neck")
    assert [weight.path for weight in embedder.trainable_weights] == ["neck_dense/kernel"]
    freeze_below(embedder, "stem", batch_norm=True)
    assert len(embedder.trainable_weights) == everything


def test_an_unknown_stage_is_refused():
    embedder = make_model().embedder
    with pytest.raises(
        ValueError,
        match=r"one of stem, stage1, stage2, stage3, stage4, neck, the stages of 'embedder'. Received: stage='stage5'",
    ):
        freeze_below(embedder, "stage5")
    assert embedder.trainable_weights  # unchanged


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_stage_has_its_learning_rate(backbone):
    """A step of SGD changes a weight by the learning rate times the gradient."""
    model = make_model(backbone)
    top_down = ["head", *reversed(STAGES[backbone])]
    optimizer = layerwise_lr_decay(model.embedder, keras.optimizers.SGD, learning_rate=0.8, decay=0.5)
    before = values(model)
    weights = model.trainable_variables
    gradients = [np.random.default_rng(0).normal(size=weight.shape).astype(np.float32) for weight in weights]
    optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], weights)
    after = values(model)
    for path, gradient in zip(map(path_of, weights), gradients, strict=True):
        change = -0.8 * 0.5 ** top_down.index(stage_of(path)) * gradient
        np.testing.assert_allclose(after[path] - before[path], change, rtol=1e-4, atol=1e-6, err_msg=path)


def test_frozen_stages_have_no_optimizer():
    embedder = make_model().embedder
    freeze_below(embedder, "stage4")
    found = layerwise_lr_decay(embedder, keras.optimizers.Adam, learning_rate=0.01, decay=0.1).optimizers
    np.testing.assert_allclose([float(optimizer.learning_rate) for optimizer in found], [1e-3, 1e-4, 1e-2], rtol=1e-6)


@pytest.mark.slow
def test_a_loaded_model_continues_training_exactly(tmp_path):
    """With clipping, accumulation, momenta, and one schedule per stage."""
    inputs = outputs = keras.Input((8,))
    for stage in ("stem", "stage1", "stage2", "neck"):
        outputs = keras.layers.Dense(6, name=f"{stage}_dense")(outputs)
    model = RecognitionModel(keras.Model(inputs, outputs), ArcFace(3, name="head"), name="model")
    freeze_below(model.embedder, "stage1")

    def make_optimizer(rate):
        return CoupledSGD(keras.optimizers.schedules.ExponentialDecay(rate, 2, 0.5))

    optimizer = layerwise_lr_decay(model.embedder, make_optimizer, learning_rate=0.1)
    model.compile(GradientAccumulationOptimizer(optimizer, accumulation_steps=2, clip_norm=1.0))
    small.train(model, [], batch_size=8)  # three steps: the accumulators are not empty
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rates = [[float(o.learning_rate) for o in m.optimizer.optimizers] for m in (model, loaded)]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 4
    for each in (model, loaded):
        small.train(each, [], batch_size=8)
    expected = values(model)
    for path, value in values(loaded).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("decay", [0, 1.5])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \(0, 1\]. Received: decay={decay}"):
        layerwise_lr_decay(make_model().embedder, keras.optimizers.SGD, learning_rate=0.1, decay=decay)


def test_a_model_that_is_not_built_has_no_stages():
    embedder = keras.Sequential([keras.layers.Dense(4)], name="mine")
    with pytest.raises(
        ValueError, match=r"embedder must be a built model .* Received: 'mine' without weights, built=False"
    ):
        stages(embedder)
