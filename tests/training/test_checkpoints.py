import logging
import re
import shutil

import keras
import numpy as np
import pytest
from keras import optimizers
from small import IMAGES
from small import LABELS
from small import make_model
from small import state
from small import train

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.training import Checkpoints
from keras_arcface.training import CosineSchedule
from keras_arcface.training import CoupledSGD
from keras_arcface.training import GradientAccumulationOptimizer
from keras_arcface.training import SyncedLossScaleOptimizer


def can_be_restored(model, directory):
    try:
        return Checkpoints(directory).restore(model) > 0
    except ValueError:
        return False


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with the checkpoints of steps 6, 8 and 10 of a training of 12 steps."""
    directory = tmp_path_factory.mktemp("trained")
    keras.utils.set_random_seed(0)
    train(make_model(), [Checkpoints(directory, every_steps=2, keep=3)], epochs=2)
    return directory


@pytest.fixture
def checkpoints_directory(trained, tmp_path):
    """A copy of `trained` that a test may change."""
    return shutil.copytree(trained, tmp_path / "checkpoints")


def test_the_last_checkpoints_are_kept(trained):
    assert sorted(path.name for path in trained.iterdir()) == [f"step-{step:010d}.npz" for step in (6, 8, 10)]


def test_all_variables_are_restored(trained):
    """Of the model and the optimizer: nothing else determines the next step."""
    model, checkpoints = make_model(), Checkpoints(trained, every_steps=1)
    initial = state(model)
    assert checkpoints.restore(model) == checkpoints.step == 10
    restored = state(model)
    with np.load(trained / "step-0000000010.npz") as file:
        assert len(file.files) == len(restored) + 1
        assert all(np.array_equal(file[str(index)], value) for index, value in enumerate(restored))
    # Weights, dropout's seed, the head's step counter and margin strength, momenta, averages, iterations.
    changed = [not np.array_equal(a, b) for a, b in zip(initial, restored, strict=True)]
    assert sum(changed) >= len(changed) - 1  # all but the learning rate


def two_learning_rates():
    return optimizers.OptimizerMap(CoupledSGD(0.01), {".*head/centers": optimizers.Adam(0.01)})


@pytest.mark.parametrize(
    ("make_optimizer", "policy"),
    [
        (lambda: CoupledSGD(CosineSchedule(0.01, total=12, warmup=3), use_ema=True), "float32"),
        (
            lambda: GradientAccumulationOptimizer(optimizers.MultiOptimizer(two_learning_rates()), 4, clip_norm=0.1),
            "float32",
        ),
        (lambda: SyncedLossScaleOptimizer(optimizers.AdamW(0.01), dynamic_growth_steps=3), "mixed_float16"),
    ],
    ids=["averaged", "accumulated", "loss scale"],
)
def test_a_resumed_run_equals_an_uninterrupted_run(make_optimizer, policy, tmp_path):
    """Including dropout, margin warm-up, momenta, averages, accumulated gradients and loss scale."""
    previous_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        uninterrupted = make_model(make_optimizer())
        train(uninterrupted, [Checkpoints(tmp_path, every_steps=5)], epochs=2)
        resumed, checkpoints = make_model(make_optimizer()), Checkpoints(tmp_path, every_steps=99)
        assert checkpoints.restore(resumed) == 10
        resumed.fit(IMAGES[16:], LABELS[16:], batch_size=4, shuffle=False, verbose=0, callbacks=[checkpoints])
    finally:
        keras.config.set_dtype_policy(previous_policy)
    assert checkpoints.step == 12
    for expected, value in zip(state(uninterrupted), state(resumed), strict=True):
        np.testing.assert_array_equal(expected, value)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="sampled classes require TensorFlow or JAX")
def test_sampled_centers_and_their_slots_are_restored(tmp_path):
    """The slots exist in a model that has not trained yet, so that there is a place to restore them to."""

    def sampled():
        embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        model = RecognitionModel(embedder, ArcFace(20, sample_rate=0.3, name="head"))
        model.compile(optimizers.Adam(0.01))
        model.build((None, 8))
        return model

    uninterrupted = sampled()
    callback = Checkpoints(tmp_path, every_steps=99)
    train(uninterrupted, [callback])
    callback.write()
    resumed, checkpoints = sampled(), Checkpoints(tmp_path, every_steps=99)
    assert checkpoints.restore(resumed) == 6
    assert len(resumed.head.partial_fc.slots) == 2
    for expected, value in zip(state(uninterrupted), state(resumed), strict=True):
        np.testing.assert_array_equal(expected, value)


def test_without_checkpoints_the_step_is_0(tmp_path):
    model = make_model()
    before = state(model)
    assert Checkpoints(tmp_path / "absent").restore(model) == 0
    assert all(map(np.array_equal, before, state(model)))


def test_steps_are_counted_over_several_fits(tmp_path):
    model = make_model(CoupledSGD(0.01), eager=True)  # with moving averages, Keras cannot fit twice on JAX
    checkpoints = Checkpoints(tmp_path, every_steps=5)
    train(model, [checkpoints])
    train(model, [checkpoints])
    assert checkpoints.step == 12
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000000005.npz", "step-0000000010.npz"]


def largest_array(path):
    with np.load(path) as file:
        return max((file[name] for name in file.files), key=lambda array: array.nbytes)


@pytest.mark.parametrize("fault", ["empty", "truncated", "not a zip file", "flipped bit", "unreadable"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_restored(fault, checkpoints_directory, caplog):
    last = checkpoints_directory / "step-0000000010.npz"
    content = bytearray(last.read_bytes())
    if fault == "unreadable":
        last.unlink()
        last.mkdir()
    else:
        content[content.index(largest_array(last).tobytes())] ^= 1  # bits outside of arrays may be padding
        damaged = {"empty": b"", "truncated": bytes(content)[:-100], "not a zip file": b"x" * 999}
        last.write_bytes(damaged.get(fault, bytes(content)))
    assert Checkpoints(checkpoints_directory).restore(make_model()) == 8
    assert f"Checkpoint {last} is skipped" in caplog.text


def test_a_flipped_bit_never_changes_a_restored_model(checkpoints_directory):
    path, model = checkpoints_directory / "step-0000000010.npz", make_model()
    for other in (6, 8):
        (checkpoints_directory / f"step-{other:010d}.npz").unlink()
    content = path.read_bytes()
    Checkpoints(checkpoints_directory).restore(model)
    expected = state(model)
    generator = np.random.default_rng(1)
    detected = 0
    logging.disable()
    for position in generator.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        detected += not can_be_restored(model, checkpoints_directory)
        assert all(map(np.array_equal, expected, state(model)))
    logging.disable(logging.NOTSET)
    print(f"{detected} of 300 flipped bits were detected, the others changed nothing")
    assert detected > 100


def test_a_model_with_nan_is_not_written(checkpoints_directory):
    model = make_model()
    checkpoints = Checkpoints(checkpoints_directory)
    checkpoints.set_model(model)
    state(model)
    model.head.centers.assign(np.full((3, 4), np.nan))
    with pytest.raises(FloatingPointError, match=r"head/centers must be finite. .* after 0 steps. No checkpoint is"):
        checkpoints.write()
    assert len(list(checkpoints_directory.iterdir())) == 3


def test_an_unfinished_file_is_no_checkpoint(checkpoints_directory):
    (checkpoints_directory / ".step-0000000012.npz.tmp").write_bytes(b"half")
    assert Checkpoints(checkpoints_directory).restore(make_model()) == 10


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dim": 5}, r"another model. Expected: .*kernel \(16, 5\) float32. Received: .*kernel \(16, 4\) float32"),
        ({"classes": 4}, r"another model. Expected: .*centers \(4, 4\) float32. Received: .*centers \(3, 4\) float32"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(other, message, trained, caplog):
    model = make_model(**other)
    before = state(model)
    with pytest.raises(ValueError, match=r"One of the 3 checkpoints in .* must be readable .* Received: step-0"):
        Checkpoints(trained).restore(model)
    assert all(map(np.array_equal, before, state(model)))
    assert re.search(message, caplog.text)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(make_model(eager=True), [Checkpoints(tmp_path, every_steps=2, run_config={"margin": 0.5, "seed": 0})])
    model = make_model()
    assert Checkpoints(tmp_path, run_config={"margin": 0.5, "seed": 0}).restore(model) == 4
    for run_config, message in (
        ({"margin": 0.4, "seed": 0}, "belongs to another run. Expected: margin=0.4. Received: margin=0.5"),
        ({}, "belongs to another run. Expected: no margin. Received: margin=0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            Checkpoints(tmp_path, run_config=run_config).restore(model)


def test_a_model_that_is_not_compiled_is_refused(trained):
    model = make_model()
    with pytest.raises(ValueError, match=r"must be built and compiled .* Received: built=\w+, compiled=False"):
        Checkpoints(trained).restore(RecognitionModel(model.embedder, model.head))


@pytest.mark.parametrize("name", ["every_steps", "keep"])
def test_invalid_arguments_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1. Received: {name}=0"):
        Checkpoints(tmp_path, **{name: 0})
