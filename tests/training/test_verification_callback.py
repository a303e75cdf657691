"""Verification within `fit`."""

import json
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import evaluation
from keras_arcface.data import PairSet
from keras_arcface.training import VerificationCallback


def make_pairs(people, seed=0):
    """Makes pairs with so much noise that verification makes errors."""
    generator = np.random.default_rng(seed)
    images, same = [], []
    for index in range(60):
        first = generator.choice(people)
        second = first if index % 2 else generator.choice([p for p in people if p != first])
        for person in (first, second):
            face = make_face(person, len(images)) * 0.3 + generator.normal(90, 60, (32, 32, 3))
            images.append(encode(np.clip(face, 0, 255).astype(np.uint8)))
        same.append(first == second)
    return PairSet(images, same)


def make_model(rate=0.1):
    layers = [keras.layers.Rescaling(1 / 127.5, -1.0), keras.layers.Flatten()]
    dense = keras.layers.Dense(8, use_bias=False, name="dense")
    embedder = keras.Sequential([keras.Input((32, 32, 3)), *layers, dense])
    model = RecognitionModel(embedder, ArcFace(6, scale=16.0))
    model.compile(keras.optimizers.SGD(rate))
    return model


@pytest.fixture
def images():
    faces = np.stack([make_face(person, image) for person in range(6) for image in range(10)])
    return faces, np.repeat(np.arange(6), 10)


def test_model_checkpoint_keeps_the_best_epoch(images, tmp_path):
    """At the end of the third of three epochs, the network is damaged."""
    pairs = make_pairs(range(6, 16))
    model = make_model()
    verification = VerificationCallback({"orl": pairs}, log_dir=tmp_path / "logs")
    damaged = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: damage(model) if epoch == 2 else None)
    keep = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", monitor="val_orl_auc", mode="max", save_best_only=True
    )
    history = model.fit(*images, epochs=3, batch_size=12, verbose=0, callbacks=[damaged, verification, keep]).history
    aucs = history["val_orl_auc"]
    assert len(aucs) == len(history["val_orl_accuracy"]) == len(history["val_orl_tar_0.1"]) == 3
    assert np.argmax(aucs) < 2
    kept = keras.saving.load_model(tmp_path / "best.keras")
    found = evaluation.verify(evaluation.embed_pairs(kept, pairs, progress=False), pairs.same)
    assert found.auc == pytest.approx(max(aucs), abs=1e-9)
    assert found.auc > aucs[2]
    assert [entry["step"] for entry in verification.results] == [5, 10, 15]
    print(f"AUC of the epochs {[round(auc, 4) for auc in aucs]}, kept {found.auc:.4f}")
    print(f"{len(verification.results)} verifications of {len(pairs)} pairs took {verification.seconds:.2f} s in all")
    assert verification.seconds > 0
    assert scalars(tmp_path / "logs")["val_orl_auc"] == [
        (step, pytest.approx(auc)) for step, auc in zip([5, 10, 15], aucs, strict=True)
    ]


def damage(model):
    """Sets the weights of all features but one to 0."""
    dense = model.embedder.get_layer("dense")
    kernel = dense.get_weights()[0]
    kernel[1:] = 0
    dense.set_weights([kernel])


def scalars(directory):
    found = {}
    for path in sorted(directory.glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor).item()))
    return found


def test_verification_by_steps(images):
    pairs = {"a": make_pairs(range(6, 16)), "b": make_pairs(range(10, 20), seed=1)}
    model = make_model()
    verification = VerificationCallback(pairs, every_steps=4, flip=False, fars=(0.5,))
    history = model.fit(*images, epochs=2, batch_size=10, verbose=0, callbacks=[verification]).history  # 6 steps each
    assert [entry["step"] for entry in verification.results] == [4, 6, 8, 12]
    assert set(verification.results[0]) == {
        *("step", "val_a_accuracy", "val_a_auc", "val_a_eer", "val_a_tar_0.5"),
        *("val_b_accuracy", "val_b_auc", "val_b_eer", "val_b_tar_0.5"),
    }
    assert history["val_a_auc"] == [verification.results[1]["val_a_auc"], verification.results[3]["val_a_auc"]]
    model.fit(*images, epochs=1, batch_size=10, verbose=0, callbacks=[verification])  # continues at step 12
    assert [entry["step"] for entry in verification.results] == [16, 18]


def test_verification_by_epochs_with_early_stopping(images):
    verification = VerificationCallback({"a": make_pairs(range(6, 16))}, every_epochs=2)
    stop = keras.callbacks.EarlyStopping("val_a_accuracy", mode="max", min_delta=2, patience=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # EarlyStopping warns about epochs without the metric
        history = make_model().fit(*images, epochs=6, batch_size=20, verbose=0, callbacks=[verification, stop]).history
    assert len(history["loss"]) == 4  # the second verification does not improve by 2
    assert [entry["step"] for entry in verification.results] == [6, 12]
    assert len(history["val_a_accuracy"]) == 2


def test_verification_does_not_change_training(images):
    def train(callbacks):
        keras.utils.set_random_seed(0)
        model = make_model()
        model.fit(*images, epochs=2, batch_size=10, verbose=0, callbacks=callbacks)
        return model.get_weights()

    without, with_verification = (
        train([]),
        train([VerificationCallback({"a": make_pairs(range(6, 16))}, every_steps=2)]),
    )
    for a, b in zip(without, with_verification, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_verification_in_the_middle_of_an_epoch_on_jax():
    """On JAX the current weights are in the state of the training step, not in the variables."""
    pytest.importorskip("jax", reason="JAX is absent")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import json, keras, numpy as np
keras.utils.set_random_seed(0)
from training import test_verification as helpers
pairs = helpers.make_pairs(range(6, 16))
faces = np.stack([helpers.make_face(person, image) for person in range(6) for image in range(10)])
labels = np.repeat(np.arange(6), 10)
found = []
for epochs in ((6,), (2, 4)):  # one epoch of 6 steps, and the same in two
    keras.utils.set_random_seed(0)
    model = helpers.make_model()
    verification = helpers.VerificationCallback({"a": pairs}, every_steps=2)
    start, aucs = 0, []
    for steps in epochs:
        part = slice(start, start + 10 * steps)
        model.fit(faces[part], labels[part], batch_size=10, shuffle=False, verbose=0, callbacks=[verification])
        start = part.stop
        aucs += [entry["val_a_auc"] for entry in verification.results]
    found.append(aucs)
print(json.dumps(found))
"""
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", code, tests], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    whole, split = json.loads(done.stdout.splitlines()[-1])
    assert whole == pytest.approx(split, abs=1e-6)
    assert len(set(whole)) == 3  # training changed it


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="sets must be a dictionary of at least one set"):
        VerificationCallback({})
    with pytest.raises(ValueError, match=r"every_steps must be an integer of at least 1. Received: every_steps=0"):
        VerificationCallback({"a": None}, every_steps=0)
    with pytest.raises(ValueError, match=r"every_epochs must be an integer of at least 1. Received: every_epochs=0"):
        VerificationCallback({"a": None}, every_epochs=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'fold'"):
        VerificationCallback({"a": None}, fold=3)


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-arcface\[tensorboard\]'"):
        VerificationCallback({"a": make_pairs(range(6, 16))}, log_dir=tmp_path)
