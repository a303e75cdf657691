"""Trains on several logical devices and prints, as JSON, the differences of replicas, callback and saved embedder.

python replica_agreement.py 2 [synchronized]
"""

import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

sys.path.append(str(Path(__file__).parent))
from conftest import make_face
from training.test_verification_callback import make_pairs

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import evaluation
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder
from keras_arcface.training import VerificationCallback


def make_model(synchronized):
    backbone = IResNet((1,), width=16, input_shape=(32, 32, 3), synchronized=synchronized)
    embedder = make_embedder(backbone, dim=8, dropout=0.0, synchronized=synchronized)
    model = RecognitionModel(embedder, ArcFace(6, scale=16.0))
    model.compile(keras.optimizers.SGD(0.1))
    return model


def replica_spread(strategy, model):
    """Returns the largest difference of a variable between two replicas."""
    values = [strategy.experimental_local_results(weight.value) for weight in model.weights]
    return max(float(np.ptp([value.numpy() for value in replicas], axis=0).max()) for replicas in values)


def cosines_to_first(embeddings):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit[0]


def short_batches(strategy):
    """Returns the largest relative difference of losses and moving statistics to one device, after short batches.

    Local batches are unequal in the first step and later, and some are empty.
    """
    faces = np.stack([make_face(person, image) for person in range(6) for image in range(3)])
    labels = np.repeat(np.arange(6), 3)
    trained = []
    for where in (tf.distribute.OneDeviceStrategy("CPU:0"), strategy):
        keras.utils.set_random_seed(0)
        with where.scope():
            model = make_model(synchronized=True)
            model.optimizer.learning_rate = 1e-5  # a higher rate amplifies rounding from step to step
        losses = [
            model.fit(faces[:count], labels[:count], batch_size=size, shuffle=False, verbose=0).history["loss"][0]
            for count, size in ((9, 9), (13, 8), (10, 8))
        ]
        trained.append([np.array(losses), *(v.numpy() for v in model.weights if "moving" in v.path)])
    # The mean of values that another BatchNorm has centered is only rounding error.
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-3)) for a, b in zip(*trained, strict=True))


def report(strategy, synchronized):
    keras.utils.set_random_seed(0)
    faces = np.stack([make_face(person, image) for person in range(6) for image in range(8)])
    labels = np.repeat(np.arange(6), 8)
    pairs = make_pairs(range(6, 16))
    with strategy.scope():
        model = make_model(synchronized)
    verification = VerificationCallback({"faces": pairs})
    model.fit(faces, labels, batch_size=16, epochs=2, verbose=0, callbacks=[verification])
    with tempfile.TemporaryDirectory() as folder:
        model.embedder.save(Path(folder) / "embedder.keras")
        saved = keras.saving.load_model(Path(folder) / "embedder.keras")
    ours, theirs = (evaluation.embed_pairs(m, pairs, progress=False) for m in (model.embedder, saved))
    batch = faces[:16].copy()
    batch[::2] = faces[0]
    halves = [
        model.evaluate(faces[order], labels[order], batch_size=48, verbose=0, return_dict=True)
        for order in (np.arange(48), np.roll(np.arange(48), 24))
    ]
    few, their_labels = faces[::5][:9], labels[::5][:9]
    short = model.fit(few, their_labels, batch_size=4, verbose=0, callbacks=[VerificationCallback({"faces": pairs})])
    model.evaluate(few, their_labels, batch_size=9, verbose=0)  # the first batch has unequal local batches
    predicted = model.predict(few, batch_size=4, verbose=0)
    return {
        "short batches against one device": short_batches(strategy) if synchronized else None,
        "steps": int(model.optimizer.iterations.numpy()),
        "spread of replicas": replica_spread(strategy, model),
        "least cosine of one image to itself": float(cosines_to_first(model.predict(batch, verbose=0)[::2]).min()),
        "callback": verification.results[-1]["val_faces_accuracy"],
        "saved": float(evaluation.verify(theirs, pairs.same).accuracy),
        "saved embeddings differ by": float(np.abs(ours - theirs).max()),
        "evaluate, halves swapped": max(abs(halves[0][name] - halves[1][name]) for name in halves[0]),
        "short batch is finite": bool(np.isfinite([*short.history.values()]).all() and np.isfinite(predicted).all()),
        "short batch, rows": len(predicted),
        "short batch, predict against one device": float(
            np.abs(predicted - evaluation.embed_images(model.embedder, few, flip=False, progress=False)).max()
        ),
    }


def main():
    devices = [f"CPU:{number}" for number in range(int(sys.argv[1]))]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(devices))
    strategy = tf.distribute.MirroredStrategy(devices)
    print(json.dumps(report(strategy, synchronized="synchronized" in sys.argv), indent=1))


if __name__ == "__main__":
    main()
