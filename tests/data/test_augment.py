import numpy as np
import tensorflow as tf
from conftest import make_face

from keras_arcface.data import augment

FACES = np.stack([make_face(person, 0) for person in range(64)])


def test_flip_mirrors_about_half_of_the_images_and_changes_no_other():
    flipped = augment.flip(tf.constant(FACES), [1, 2]).numpy()
    same = (flipped == FACES).all(axis=(1, 2, 3))
    mirrored = (flipped == FACES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 <= mirrored.sum() <= 48


def test_an_augmentation_is_a_function_of_the_seed():
    for change in (augment.flip, augment.affine):
        first = change(tf.constant(FACES), [1, 2]).numpy()
        np.testing.assert_array_equal(change(tf.constant(FACES), [1, 2]).numpy(), first)
        assert (change(tf.constant(FACES), [1, 3]).numpy() != first).any()


def test_affine_without_limits_only_flips():
    still = augment.affine(tf.constant(FACES), [1, 2], rotation=0.0, zoom=0.0, shift=0.0).numpy()
    np.testing.assert_array_equal(still, augment.flip(tf.constant(FACES), [1, 2]).numpy())


def test_affine_moves_by_no_more_than_its_limit():
    dot = np.zeros((64, 33, 33, 3), np.uint8)
    dot[:, 15:18, 15:18] = 255
    moved = augment.affine(tf.constant(dot), [5, 6], rotation=0.0, zoom=0.0, shift=0.2).numpy().astype(float)
    weights = moved[..., 0] / moved[..., 0].sum(axis=(1, 2), keepdims=True)
    offsets = [
        np.abs((weights * np.arange(33)[:, None]).sum(axis=(1, 2)) - 16),
        np.abs((weights * np.arange(33)).sum(axis=(1, 2)) - 16),
    ]
    assert np.max(offsets) < 0.2 * 33 + 0.5
    assert np.max(offsets) > 0.15 * 33


def test_affine_turns_about_the_centre():
    dot = np.zeros((16, 33, 33, 3), np.uint8)
    dot[:, 15:18, 15:18] = 255
    turned = augment.affine(tf.constant(dot), [5, 6], rotation=0.5, zoom=0.0, shift=0.0).numpy().astype(float)
    weights = turned[..., 0] / turned[..., 0].sum(axis=(1, 2), keepdims=True)
    assert np.abs((weights * np.arange(33)[:, None]).sum(axis=(1, 2)) - 16).max() < 0.1
    assert np.abs((weights * np.arange(33)).sum(axis=(1, 2)) - 16).max() < 0.1
