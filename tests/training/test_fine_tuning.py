import keras
import numpy as np
import pytest
from conftest import make_face

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.backbones import IResNet
from keras_arcface.backbones import MobileFaceNet
from keras_arcface.models import make_embedder
from keras_arcface.training import CoupledSGD
from keras_arcface.training import WholeBatchOptimizer
from keras_arcface.training import layerwise
from keras_arcface.training import stages
from keras_arcface.training import trainable_from

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
    return model_of(BACKBONES[backbone]())


def model_of(backbone):
    embedder = make_embedder(backbone, dim=8, dropout=0.0)
    model = RecognitionModel(embedder, ArcFace(4, scale=8.0, name="head"), name="model")
    model.build((None, 32, 32, 3))
    return model


def fit(model, epochs=1):
    model.fit(IMAGES, LABELS, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return values(model)


def values(model):
    """Every weight and statistic, by its path within the embedder or the head."""
    return {path_of(weight): keras.ops.convert_to_numpy(weight).copy() for weight in model.weights}


def path_of(weight):
    return weight.path.removeprefix("model/")


def stage_of(path):
    first = path.split("/")[0].split("_")[0]
    return {"embedding": "neck", "global": "last"}.get(first, first)


def learns(path, batch_norm):
    """Whether a variable is a weight that is trained, or a statistic that follows, if its stage is not frozen."""
    layer, variable = path.split("/")
    if layer == "head":
        return variable in ("centers", "steps")
    return batch_norm or variable not in ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stages_are_found_from_the_pixels_up(backbone):
    embedder = make_model(backbone).embedder
    found = stages(embedder)
    assert list(found) == STAGES[backbone]
    weights = [weight.path for layers in found.values() for layer in layers for weight in layer.weights]
    assert sorted(weights) == sorted(weight.path for weight in embedder.weights)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("backbone", "stage"), [("iresnet", "neck"), ("iresnet", "stage4"), ("iresnet", "stem"), ("mobilefacenet", "last")]
)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(backbone, stage, batch_norm):
    model = make_model(backbone)
    trainable_from(model.embedder, stage, batch_norm)
    # On TensorFlow a few eager steps take less time than tracing one; on JAX they take more.
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    before, after = values(model), fit(model)
    trained = [*STAGES[backbone][STAGES[backbone].index(stage) :], "head"]
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {path for path in before if stage_of(path) in trained and learns(path, batch_norm)}


def test_a_second_choice_replaces_the_first():
    embedder = make_model().embedder
    trainable_from(embedder, "stem", batch_norm=True)
    everything = len(embedder.trainable_weights)
    trainable_from(embedder, "stage4")
    embedder.trainable = False
    trainable_from(embedder, "neck")
    assert [weight.path for weight in embedder.trainable_weights] == ["neck_dense/kernel"]
    trainable_from(embedder, "stem", batch_norm=True)
    assert len(embedder.trainable_weights) == everything


def test_an_unknown_stage_is_refused_naming_those_there_are():
    embedder = make_model().embedder
    with pytest.raises(
        ValueError,
        match=r"one of stem, stage1, stage2, stage3, stage4, neck, the stages of 'embedder'. Received: 'stage5'",
    ):
        trainable_from(embedder, "stage5")
    assert embedder.trainable_weights  # nothing has been done


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_stage_learns_at_its_rate(backbone):
    """A step of SGD changes a weight by its rate times the gradient."""
    model = make_model(backbone)
    top_down = ["head", *reversed(STAGES[backbone])]
    optimizer = layerwise(model.embedder, keras.optimizers.SGD, rate=0.8, decay=0.5)
    before = values(model)
    weights = model.trainable_variables
    gradients = [np.random.default_rng(0).normal(size=weight.shape).astype(np.float32) for weight in weights]
    optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], weights)
    after = values(model)
    for path, gradient in zip(map(path_of, weights), gradients, strict=True):
        change = -0.8 * 0.5 ** top_down.index(stage_of(path)) * gradient
        np.testing.assert_allclose(after[path] - before[path], change, rtol=1e-4, atol=1e-6, err_msg=path)


def test_only_what_is_trained_has_an_optimizer():
    embedder = make_model().embedder
    trainable_from(embedder, "stage4")
    found = layerwise(embedder, keras.optimizers.Adam, rate=0.01, decay=0.1).optimizers
    np.testing.assert_allclose([float(optimizer.learning_rate) for optimizer in found], [1e-3, 1e-4, 1e-2], rtol=1e-6)


def test_a_saved_training_goes_on_exactly(tmp_path):
    """Clipped and accumulated around it, momenta within it, and a schedule of its own for each."""
    model = model_of(IResNet((1, 1), width=16, input_shape=(32, 32, 3)))
    trainable_from(model.embedder, "stage1")

    def make_optimizer(rate):
        return CoupledSGD(keras.optimizers.schedules.ExponentialDecay(rate, 2, 0.5))

    optimizer = layerwise(model.embedder, make_optimizer, rate=0.1)
    model.compile(WholeBatchOptimizer(optimizer, accumulation_steps=2, clip_norm=1.0))
    fit(model, epochs=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rates = [[float(o.learning_rate) for o in m.optimizer.optimizers] for m in (model, loaded)]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 4
    expected = fit(model, epochs=3)
    for path, value in fit(loaded, epochs=3).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("decay", [0, 1.5])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \(0, 1\]. Received: decay={decay}"):
        layerwise(make_model().embedder, keras.optimizers.SGD, rate=0.1, decay=decay)
