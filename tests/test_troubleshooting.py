"""The messages in docs/troubleshooting.md are those that users see."""

import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving
from keras_arcface.models import make_embedder

PAGE = " ".join((Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text("utf-8").split())
IMAGES, LABELS = np.zeros((16, 32, 32, 3), "uint8"), np.arange(16) % 4


def compiled(**options):
    images = keras.Input((32, 32, 3))
    embedder = make_embedder(keras.Model(images, keras.layers.AveragePooling2D(16)(images)), dim=4)
    model = RecognitionModel(embedder, ArcFace(4, name="arc_face"))
    model.compile("sgd", **options)
    return model


def write_faces(folder, damaged=b"", size=(112, 112)):
    for person in range(3):
        (folder / f"p{person}").mkdir(parents=True)
        (folder / f"p{person}" / "0.jpg").write_bytes(encode(make_face(person, 0, (112, 112)), ".jpg"))
    (folder / "p0" / "7.jpg").write_bytes(encode(make_face(0, 7, size), ".jpg"))
    if damaged:
        (folder / "p0" / "9.jpg").write_bytes(damaged)
    return folder


def evaluate_pairs(count, far=None):
    embeddings = np.random.default_rng(0).normal(size=(2 * count, 4))
    result = evaluation.verify(embeddings, np.arange(count) % 2 == 0)
    return result.at_far(far)


def hide(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)


CASES = {
    "labels": lambda *_: compiled().fit(IMAGES, LABELS + 1),
    "one-hot": lambda *_: compiled().fit(IMAGES, np.eye(4)[LABELS]),
    "float labels": lambda *_: compiled().fit(IMAGES, LABELS.astype("float32")),
    "infinite": lambda *_: compiled().fit(tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat()),
    "loss": lambda *_: compiled(loss="sparse_categorical_crossentropy").fit(IMAGES, LABELS),
    "sequential": lambda *_: ArcFace(4, name="arc_face")(np.zeros((2, 4), "float32"), training=True),
    "few pairs": lambda *_: evaluate_pairs(8),
    "far": lambda *_: evaluate_pairs(200, far=1e-6),
    "absent": lambda *_: data.ImageFolder("absent"),
    "flat": lambda folder, _: data.ImageFolder(write_faces(folder / "faces") / "p0"),
    "nested": lambda folder, _: data.ImageFolder(write_faces(folder / "nested" / "train" / "faces").parents[1]),
    "size": lambda folder, _: data.write_dataset(data.ImageFolder(write_faces(folder, size=(160, 160))), "records"),
    "damaged": lambda folder, _: data.write_dataset(data.ImageFolder(write_faces(folder, b"hello")), "records"),
    "not a dataset": lambda folder, _: data.load_dataset(write_faces(Path("faces")), 4),
    "h5": lambda *_: serving.load_embedder("e.h5"),
    "exists": lambda folder, _: serving.check_exportable(compiled().embedder, write_faces(Path("exported"))),
    "extra": lambda folder, monkeypatch: (
        hide("tf2onnx", monkeypatch),
        serving.export_onnx(compiled().embedder, "model.onnx"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message_is_on_the_page(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("e.h5").touch()
    with pytest.raises((ValueError, OSError, ImportError)) as raised:
        CASES[case](tmp_path / "data", monkeypatch)
    frame = r"\x1b\[\d*m|^Exception encountered when calling .*|Arguments received by (.|\n)*"  # added by Keras
    message = re.sub(frame, "", str(raised.value))
    message = " ".join(message.split()).replace(f"{tmp_path}/data/", "")
    if case in ("one-hot", "float labels", "labels"):  # in a table of the ends of messages
        message = message[message.index("Received: ") :]
    assert message in PAGE, message
