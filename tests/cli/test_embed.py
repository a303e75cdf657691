"""The command `keras-arcface embed`."""

import json

import keras
import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface import data
from keras_arcface import serving
from keras_arcface.evaluation import StoredEmbeddings
from keras_arcface.evaluation import embed_images

pytest.importorskip("pyarrow")


@pytest.fixture
def embedder(tmp_path):
    images = keras.Input((32, 32, 3))
    features = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(images))
    keras.Model(images, keras.layers.Dense(6)(features)).save(tmp_path / "embedder.keras")
    return tmp_path / "embedder.keras"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_folder_is_embedded(run, face_folder, embedder, tmp_path, processes):
    options = ("--embedder", embedder, "--images-per-shard", 5, "--processes", processes)
    done = run("embed", face_folder, tmp_path / "out", *options)
    assert done.code == 0, done.err
    stored = StoredEmbeddings(tmp_path / "out")
    assert done.out == f"{tmp_path / 'out'}: 12 embeddings of {stored.dim} dimensions, float32\n"
    source = data.ImageFolder(face_folder)
    expected = embed_images(serving.load_embedder(embedder), source, progress=False)
    np.testing.assert_allclose(stored.embeddings(), expected, rtol=1e-4, atol=1e-5)
    assert stored.labels().tolist() == source.labels.tolist()
    again = run("embed", face_folder, tmp_path / "out", *options, "--json")
    found = json.loads(again.out)
    assert (found["images"], found["embedder_sha256"]) == (12, stored.embedder_sha256)


def test_damaged_images(run, face_folder, embedder, tmp_path):
    (face_folder / "person_1" / "damaged.jpg").write_bytes(encode(make_face(1, 0), ".jpg")[:100])
    failed = run("embed", face_folder, tmp_path / "out", "--embedder", embedder)
    assert failed.code == 1
    assert "person_1/damaged.jpg" in failed.err
    done = run("embed", face_folder, tmp_path / "out", "--embedder", embedder, "--skip-damaged")
    assert done.code == 0, done.err
    assert "1 image was skipped; embeddings.json lists it" in done.out


def test_other_embeddings_are_refused(run, face_folder, embedder, tmp_path):
    assert run("embed", face_folder, tmp_path / "out", "--embedder", embedder).code == 0
    failed = run("embed", face_folder, tmp_path / "out", "--embedder", embedder, "--dtype", "int8")
    assert failed.code == 1
    assert "dtype was float32, now int8" in failed.err
