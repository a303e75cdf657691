import logging
import re

import keras
import numpy as np
import pytest
from keras import optimizers
from small import IMAGES
from small import LABELS
from small import make_model
from small import state
from small import train

from keras_arcface import RecognitionModel
from keras_arcface.training import Checkpoints
from keras_arcface.training import CosineSchedule
from keras_arcface.training import CoupledSGD
from keras_arcface.training import WholeBatchLossScale
from keras_arcface.training import WholeBatchOptimizer


def can_be_restored(model, directory):
    try:
        return Checkpoints(directory).restore(model) > 0
    except ValueError:
        return False


@pytest.fixture
def written(tmp_path):
    """A directory with checkpoints of steps 6, 8 and 10 of a training of 12."""
    train(make_model(), [Checkpoints(tmp_path, every_steps=2, keep=3)], epochs=2)
    return tmp_path


def test_the_last_are_kept_under_the_steps_done(written):
    assert sorted(path.name for path in written.iterdir()) == [f"step-{step:010d}.npz" for step in (6, 8, 10)]


def test_all_variables_come_back(written):
    """Of the model and the optimizer: what a step makes of a state depends on nothing else."""
    model, checkpoints = make_model(), Checkpoints(written, every_steps=1)
    fresh = state(model)
    assert checkpoints.restore(model) == checkpoints.step == 10
    restored = state(model)
    with np.load(written / "step-0000000010.npz") as file:
        assert len(file.files) == len(restored) + 1
        assert all(np.array_equal(file[str(index)], value) for index, value in enumerate(restored))
    # The weights, and beside them dropout's seed, the head's counter and ramp, momenta, averages, iterations.
    changed = [not np.array_equal(a, b) for a, b in zip(fresh, restored, strict=True)]
    assert sum(changed) >= len(changed) - 1  # all but the rate


def two_rates():
    return optimizers.OptimizerMap(CoupledSGD(0.01), {".*head/centers": optimizers.Adam(0.01)})


@pytest.mark.parametrize(
    ("make_optimizer", "policy"),
    [
        (lambda: CoupledSGD(CosineSchedule(0.01, total=12, warmup=3), use_ema=True), "float32"),
        (lambda: WholeBatchOptimizer(optimizers.MultiOptimizer(two_rates()), 4, clip_norm=0.1), "float32"),
        (lambda: WholeBatchLossScale(optimizers.AdamW(0.01), dynamic_growth_steps=3), "mixed_float16"),
    ],
    ids=["averaged", "accumulated", "loss scale"],
)
def test_a_run_goes_on_as_if_nothing_had_been(make_optimizer, policy, tmp_path):
    """Dropout, warm-up, momenta, averages, accumulated gradients and loss scale included."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        undisturbed = make_model(make_optimizer())
        train(undisturbed, [Checkpoints(tmp_path, every_steps=5)], epochs=2)
        resumed, checkpoints = make_model(make_optimizer()), Checkpoints(tmp_path, every_steps=99)
        assert checkpoints.restore(resumed) == 10
        resumed.fit(IMAGES[16:], LABELS[16:], batch_size=4, shuffle=False, verbose=0, callbacks=[checkpoints])
    finally:
        keras.config.set_dtype_policy(before)
    assert checkpoints.step == 12
    for one, other in zip(state(undisturbed), state(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_there_is_step_0(tmp_path):
    model = make_model()
    before = state(model)
    assert Checkpoints(tmp_path / "none").restore(model) == 0
    assert all(map(np.array_equal, before, state(model)))


def test_steps_are_counted_over_several_fits(tmp_path):
    model = make_model(CoupledSGD(0.01))  # with averages, Keras cannot fit twice on JAX
    checkpoints = Checkpoints(tmp_path, every_steps=5)
    train(model, [checkpoints])
    train(model, [checkpoints])
    assert checkpoints.step == 12
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000000005.npz", "step-0000000010.npz"]


def largest_array(path):
    with np.load(path) as file:
        return max((file[name] for name in file.files), key=lambda array: array.nbytes)


@pytest.mark.parametrize("fault", ["empty", "cut", "no zip", "a bit", "unreadable"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_taken(fault, written, caplog):
    last = written / "step-0000000010.npz"
    content = bytearray(last.read_bytes())
    if fault == "unreadable":
        last.unlink()
        last.mkdir()
    else:
        content[content.index(largest_array(last).tobytes())] ^= 1  # elsewhere a bit may be padding
        last.write_bytes({"empty": b"", "cut": bytes(content)[:-100], "no zip": b"x" * 999}.get(fault, bytes(content)))
    assert Checkpoints(written).restore(make_model()) == 8
    assert f"{last} is refused" in caplog.text


def test_no_bit_can_be_wrong_in_silence(written):
    path, model = written / "step-0000000010.npz", make_model()
    for other in (6, 8):
        (written / f"step-{other:010d}.npz").unlink()
    content = path.read_bytes()
    Checkpoints(written).restore(model)
    right = state(model)
    generator = np.random.default_rng(1)
    noticed = 0
    logging.disable()
    for place in generator.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        noticed += not can_be_restored(model, written)
        assert all(map(np.array_equal, right, state(model)))
    logging.disable(logging.NOTSET)
    print(f"{noticed} of 300 flipped bits were noticed, the others changed nothing")
    assert noticed > 100


def test_a_model_that_is_no_number_is_not_written(written):
    model = make_model()
    checkpoints = Checkpoints(written)
    checkpoints.set_model(model)
    state(model)
    model.head.centers.assign(np.full((3, 4), np.nan))
    with pytest.raises(FloatingPointError, match=r"head/centers is not finite after 0 steps. No checkpoint is written"):
        checkpoints.write()
    assert len(list(written.iterdir())) == 3


def test_a_file_that_was_never_finished_is_no_checkpoint(written):
    (written / "step-0000000012.unfinished").write_bytes(b"half")
    assert Checkpoints(written).restore(make_model()) == 10


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dim": 5}, r"another model, with .*kernel \(16, 4\) float32. Expected: .*kernel \(16, 5\) float32"),
        ({"classes": 4}, r"another model, with .*centers \(3, 4\) float32. Expected: .*centers \(4, 4\) float32"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(other, message, written, caplog):
    model = make_model(**other)
    before = state(model)
    with pytest.raises(
        ValueError, match=r"None of the 3 checkpoints in .* can be taken up: the last one tried, step-0"
    ):
        Checkpoints(written).restore(model)
    assert all(map(np.array_equal, before, state(model)))
    assert re.search(message, caplog.text)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(make_model(), [Checkpoints(tmp_path, every_steps=2, about={"margin": 0.5, "seed": 0})])
    assert Checkpoints(tmp_path, about={"margin": 0.5, "seed": 0}).restore(make_model()) == 4
    for about, message in (
        ({"margin": 0.4, "seed": 0}, "it is of another run, with margin=0.5. Expected: margin=0.4"),
        ({}, "it is of another run, with margin=0.5. Expected: margin='nothing'"),
    ):
        with pytest.raises(ValueError, match=message):
            Checkpoints(tmp_path, about=about).restore(make_model())


def test_a_model_that_is_not_compiled_is_refused(written):
    model = make_model()
    with pytest.raises(ValueError, match=r"must be built and compiled: model.build\("):
        Checkpoints(written).restore(RecognitionModel(model.embedder, model.head))


@pytest.mark.parametrize("arguments", [{"every_steps": 0}, {"keep": 0}])
def test_arguments_out_of_range_are_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match="every_steps and keep must be at least 1"):
        Checkpoints(tmp_path, **arguments)
