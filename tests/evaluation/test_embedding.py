import keras
import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface.data import PairSet
from keras_arcface.evaluation import embed_images
from keras_arcface.evaluation import embed_pairs

FACES = np.stack([make_face(person, 0) for person in range(10)])


def left_half(images):
    """An embedding that tells left from right."""
    return np.asarray(images, np.float32)[:, :, :16].mean(axis=1).reshape(len(images), -1)


def test_the_mirror_image_is_added_before_normalisation():
    embeddings = embed_images(left_half, FACES, batch_size=3, progress=False)
    np.testing.assert_allclose(embeddings, left_half(FACES) + left_half(FACES[:, :, ::-1]), rtol=1e-6)
    straight = embed_images(left_half, FACES, flip=False, progress=False)
    np.testing.assert_array_equal(straight, left_half(FACES))


def test_a_keras_model_is_asked_not_to_train():
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dropout(0.9)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    embeddings = embed_images(model, FACES, flip=False, batch_size=4, progress=False)
    np.testing.assert_array_equal(embeddings, FACES.reshape(10, -1))


def test_pairs_are_decoded_to_rgb_and_kept_in_order():
    pairs = PairSet([encode(face) for face in FACES], np.arange(5) > 2)
    embeddings = embed_pairs(left_half, pairs, flip=False, progress=False)
    np.testing.assert_array_equal(embeddings, left_half(FACES))


def test_a_broken_image_is_named():
    pairs = PairSet([encode(face) for face in FACES], np.arange(5) > 2)
    pairs.images[7] = pairs.images[7][:100]
    with pytest.raises(ValueError, match=r"image 7 \(of pair 3\) is not a readable image"):
        embed_pairs(left_half, pairs)


def test_an_image_of_another_size_is_named():
    pairs = PairSet([encode(face) for face in FACES], np.arange(5) > 2)
    pairs.images[6] = encode(make_face(6, 0, size=(40, 32)))
    with pytest.raises(ValueError, match=r"image 6 \(of pair 3\) has another size.*\(32, 32\).*Received: \(40, 32\)"):
        embed_pairs(left_half, pairs)
