"""Training as in ordinary Keras: data of every kind, weights, callbacks and options of `compile`."""

import keras
import numpy as np
import pytest
from keras import callbacks
from keras import ops
from tiny_models import CLASSES
from tiny_models import EAGER_IF_FASTER
from tiny_models import METRICS
from tiny_models import assert_same_weights
from tiny_models import fit
from tiny_models import make_functional
from tiny_models import make_images
from tiny_models import make_model

from keras_arcface import _pixels

IMAGES, LABELS = make_images()
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]


@pytest.fixture(scope="module")
def compiled():
    """A model whose steps are compiled, and its initial variables."""
    model = make_model()
    before = [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]
    fit(model, validation_data=(IMAGES, LABELS))
    return model, before


@pytest.fixture
def restart(compiled):
    """A function that resets the compiled model and its optimizer, which is faster than another model."""
    model, before = compiled

    def run():
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        for variable in model.optimizer.variables:
            variable.assign(ops.zeros(variable.shape, variable.dtype))
        model.optimizer.learning_rate.assign(0.01)
        return model

    return run


def assert_same_history(first, second, rel=1e-5):
    assert set(first) == set(second)
    for name, values in first.items():
        assert values == pytest.approx(second[name], rel=rel, abs=1e-6), name


class Batches(keras.utils.PyDataset):
    """Three batches of the arrays, with labels of any form and optional sample weights."""

    def __init__(self, labels=LABELS, weights=None):
        super().__init__()
        self.arrays = [array for array in (IMAGES, labels, weights) if array is not None]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return tuple(array[8 * index : 8 * index + 8] for array in self.arrays)


def generate():
    yield from (Batches()[index] for index in range(3))


def test_validation_data_gives_the_metrics_of_evaluate(restart):
    model = restart()
    history = fit(model, epochs=2, validation_data=(IMAGES, LABELS))
    assert set(history) == METRICS | {f"val_{name}" for name in METRICS}
    evaluated = model.evaluate(IMAGES, LABELS, batch_size=8, verbose=0, return_dict=True)
    for name, value in evaluated.items():
        assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-5), name
    values = model.evaluate(IMAGES, LABELS, batch_size=8, verbose=0)
    assert values == pytest.approx([evaluated[name] for name in model.metrics_names])


def test_validation_split_validates_on_the_last_examples(restart):
    split = fit(restart(), IMAGES, LABELS, validation_split=1 / 3)
    assert_same_history(split, fit(restart(), IMAGES[:16], LABELS[:16], validation_data=(IMAGES[16:], LABELS[16:])))


def test_all_kinds_of_data_train_alike(restart):
    arrays = fit(restart())
    assert_same_history(fit(restart(), Batches()), arrays)
    assert_same_history(fit(restart(), generate(), steps_per_epoch=3), arrays)
    assert_same_history(fit(restart(), ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(LABELS)), arrays)


def test_sample_weights_weigh_the_training(restart):
    weights = np.linspace(0, 2, 24).astype("float32")
    weighted = fit(restart(), sample_weight=weights)
    assert weighted["loss"] != pytest.approx(fit(restart())["loss"], rel=0.01)
    assert_same_history(fit(restart(), Batches(weights=weights)), weighted)


def test_class_weights_are_sample_weights(restart):
    class_weight = {0: 0.0, 1: 1.0, 2: 2.0, 3: 0.5}
    weights = np.array([class_weight[label] for label in LABELS], "float32")
    history = fit(restart(), class_weight=class_weight)
    assert_same_history(history, fit(restart(), sample_weight=weights))
    assert_same_history(fit(restart(), Batches(), class_weight=class_weight), history)


def test_the_loss_of_a_weighted_batch_is_that_of_the_head(restart):
    model, weights = restart(), np.linspace(0, 2, 8).astype("float32")
    losses, _, _ = model.head.loss_and_stats(LABELS[:8], model.embedder(IMAGES[:8], training=True), training=True)
    expected = np.mean(weights * ops.convert_to_numpy(losses))
    model = restart()
    logs = model.train_on_batch(IMAGES[:8], LABELS[:8], sample_weight=weights, return_dict=True)
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)
    assert set(logs) == METRICS
    tested = model.test_on_batch(IMAGES[:8], LABELS[:8], return_dict=True)
    assert tested == pytest.approx(model.evaluate(IMAGES[:8], LABELS[:8], verbose=0, return_dict=True), rel=1e-4)
    embeddings = model.predict(IMAGES, batch_size=24, verbose=0)
    np.testing.assert_allclose(model.predict_on_batch(IMAGES), embeddings, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("option", [{"steps_per_execution": 2}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_options_of_compile_do_not_change_the_training(option, restart):
    expected = fit(restart(), epochs=2)
    model = make_model(**option)
    assert_same_history(fit(model, epochs=2), expected, rel=0.02)
    assert int(model.head.steps) == 6


def test_a_seed_determines_the_training():
    models = [make_model(seed=seed, dropout=0.4, **EAGER_IF_FASTER) for seed in (1, 1, 2)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        keras.utils.set_random_seed(seed)
        fit(model, shuffle=True)
    assert_same_weights(*models[:2])
    assert not np.array_equal(models[0].get_weights()[0], models[2].get_weights()[0])


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("accuracy", "max"), ("val_accuracy", "max"), ("val_target_angle", "min"), ("target_angle_std", "min")],
)
def test_callbacks_know_the_direction_of_the_metrics(monitor, mode, restart):
    model = restart()
    monitors = [callbacks.EarlyStopping(monitor), callbacks.ReduceLROnPlateau(monitor)]
    fit(model, epochs=0, callbacks=monitors)
    assert [each.mode for each in monitors] == [mode, mode]
    alone, chosen = callbacks.ModelCheckpoint("best.keras", monitor), callbacks.EarlyStopping(monitor, mode="min")
    fit(model, epochs=0, callbacks=alone)
    fit(model, epochs=0, callbacks=callbacks.CallbackList([chosen], model=model))
    assert (alone.mode, chosen.mode) == (mode, "min")


def test_early_stopping_and_plateaus_follow_the_metrics(restart):
    early = callbacks.EarlyStopping("val_accuracy", patience=2, min_delta=1, restore_best_weights=True)
    plateau = callbacks.ReduceLROnPlateau("target_angle", factor=0.5, patience=1, min_delta=1)
    model = restart()
    history = fit(model, epochs=9, validation_data=(IMAGES, LABELS), callbacks=[early, plateau])
    assert history["learning_rate"] == pytest.approx([0.01, 0.01, 0.005])
    assert (early.stopped_epoch, early.best_epoch) == (2, 0)
    evaluated = model.evaluate(IMAGES, LABELS, batch_size=8, verbose=0, return_dict=True)
    assert evaluated["target_angle"] == pytest.approx(history["val_target_angle"][0], rel=1e-5)


def test_checkpoints_hold_the_model_or_its_weights(restart, tmp_path):
    model = restart()
    every = callbacks.ModelCheckpoint(tmp_path / "{epoch}_{val_accuracy:.2f}.keras")
    best = callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_target_angle", save_best_only=True)
    weights = callbacks.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True)
    history = fit(model, epochs=2, validation_data=(IMAGES, LABELS), callbacks=[every, best, weights])
    files = [tmp_path / f"{epoch}_{accuracy:.2f}.keras" for epoch, accuracy in enumerate(history["val_accuracy"], 1)]
    best_file = files[np.argmin(history["val_target_angle"])]
    assert_same_weights(keras.saving.load_model(tmp_path / "best.keras"), keras.saving.load_model(best_file))
    loaded = keras.saving.load_model(files[-1])
    fresh = make_model(seed=5)
    fresh.optimizer.build(fresh.trainable_variables)  # without it, Keras warns that it does not load the optimizer
    fresh.load_weights(tmp_path / "last.weights.h5")
    for each in (loaded, fresh):
        assert_same_weights(each, model)
        assert_same_weights(each.optimizer, model.optimizer)


def test_an_interrupted_training_continues_from_a_backup(restart, tmp_path):
    class Interruption(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(restart(), epochs=4, callbacks=[callbacks.BackupAndRestore(tmp_path / "backup"), Interruption()])
    resumed = make_model(seed=5)
    fit(resumed, epochs=4, callbacks=[callbacks.BackupAndRestore(tmp_path / "backup")])
    assert resumed.history.epoch == [2, 3]
    uninterrupted = restart()
    fit(uninterrupted, epochs=4)
    for ours, theirs in zip(resumed.get_weights(), uninterrupted.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_logging_callbacks_get_all_metrics(restart, tmp_path):
    pytest.importorskip("tensorboard")
    seen = []
    logging = [
        callbacks.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1)),
        callbacks.TensorBoard(tmp_path / "board", histogram_freq=1, update_freq=1),
        callbacks.CSVLogger(tmp_path / "log.csv"),
        callbacks.TerminateOnNaN(),
        callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(set(logs))),
    ]
    history = fit(restart(), epochs=2, validation_data=(IMAGES, LABELS), callbacks=logging)
    assert history["learning_rate"] == pytest.approx([0.01, 0.005])
    assert seen == [METRICS] * 6
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert set(header.split(",")) >= METRICS
    assert len(rows) == 2
    assert len(list((tmp_path / "board").rglob("events.out.tfevents.*"))) == 2  # training and validation


def test_a_head_trains_in_a_functional_model(tmp_path):
    keras.utils.set_random_seed(3)
    model = make_functional()
    history = fit(model, [IMAGES, LABELS], LABELS, epochs=3, validation_split=1 / 3)
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_weights(loaded, model)
    assert_same_weights(loaded.optimizer, model.optimizer)


WRONG_LABELS = [
    (ONE_HOT, "one-hot labels of shape (24, 4); pass labels.argmax(axis=-1)", "not one-hot"),
    (np.eye(7)[LABELS], "labels of shape (24, 7)", "integer labels in [0, 4)"),
    (np.stack([LABELS, LABELS], 1).astype("uint8"), "labels of shape (24, 2)", "one label per embedding"),
    (LABELS.astype("float32"), "pass labels.astype('int32') if they are whole numbers", "labels.astype('int32')"),
]


@pytest.mark.parametrize(("labels", "of_arrays", "of_batches"), WRONG_LABELS, ids=["one-hot", "7", "2", "float"])
def test_labels_of_another_form_are_refused_and_the_model_remains_usable(labels, of_arrays, of_batches, restart):
    model = restart()
    before = [weights.copy() for weights in model.get_weights()]
    for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=f"given to {method.__name__} must be integers") as error:
            method(IMAGES, labels)
        assert of_arrays in str(error.value)
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="labels of ") as error:
            method(Batches(labels), verbose=0)
        assert of_batches in str(error.value)
    for weights, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, other)
    assert np.isfinite(model.evaluate(IMAGES, LABELS, verbose=0)).all()


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_out_of_range_is_refused_in_an_array_and_makes_the_loss_of_a_batch_nan(label, restart):
    model, labels = restart(), np.where(np.arange(24) == 7, label, LABELS)
    for method in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=f"given to {method.__name__} must be integers in .*Received: labels from"):
            method(IMAGES, labels)
    assert np.isnan(model.evaluate(Batches(labels), verbose=0, return_dict=True)["loss"])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow may accept another size after the first call")
def test_images_of_another_size_do_not_damage_the_model(restart):
    model = restart()
    expected = model.predict(IMAGES, verbose=0)
    wrong = np.zeros((2, 9, 8, 3), "uint8")
    for run in (lambda: model.predict(wrong, verbose=0), lambda: model.fit(wrong, LABELS[:2], verbose=0)):
        with pytest.raises(ValueError, match=r"expected shape=\(None, 8, 8, 3\), found shape"):
            run()
        np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), expected)


def test_scaled_pixels_of_a_batch_cause_one_warning(restart, monkeypatch):
    monkeypatch.setattr(_pixels, "_warned", set())
    model = restart()
    model._pixels_were_checked = False  # as before the first step
    for method in (model.train_on_batch, model.test_on_batch):
        with pytest.warns(UserWarning, match=f"images given to {method.__name__} are all within") as caught:
            method(IMAGES[:8] / np.float32(255), LABELS[:8])
        assert [warning.filename for warning in caught] == [__file__]
