import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face

from keras_arcface.data import ImageFolder
from keras_arcface.data import augment
from keras_arcface.data import load_dataset
from keras_arcface.data import load_info
from keras_arcface.data import schema
from keras_arcface.data import write_dataset


@pytest.fixture
def directory(face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "records", examples_per_shard=4)
    return tmp_path / "records"


def batches(directory, count, batch_size=5, seed=1, **kwargs):
    dataset = load_dataset(directory, batch_size, training=True, seed=seed, **kwargs)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def test_one_pass_gives_every_image_as_it_was(face_folder, directory):
    dataset = load_dataset(directory, batch_size=5)
    images = np.concatenate([images for images, _ in dataset])
    labels = np.concatenate([labels for _, labels in dataset])
    assert images.dtype == np.uint8
    expected = {
        (tf.io.decode_image(record.image, channels=3).numpy().tobytes(), record.label)
        for record in ImageFolder(face_folder)
    }
    assert {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)} == expected
    assert len(images) == 12


def test_shapes_are_static_in_training(directory):
    images, labels = load_dataset(directory, 5, training=True).element_spec
    assert (images.shape, images.dtype) == ((5, 32, 32, 3), tf.uint8)
    assert (labels.shape, labels.dtype) == ((5,), tf.int64)


def test_every_pass_gives_every_image_once_in_another_order(directory):
    per_pass = [images for images, _ in batches(directory, 9, batch_size=4, augmentation=None)]
    passes = [np.concatenate(per_pass[start : start + 3]) for start in (0, 3, 6)]
    contents = [[image.tobytes() for image in images] for images in passes]
    assert sorted(contents[0]) == sorted(contents[1]) == sorted(contents[2])
    assert len(set(contents[0])) == 12
    assert contents[0] != contents[1] != contents[2]


@pytest.mark.parametrize("augmentation", [None, augment.flip, augment.affine])
def test_what_a_step_sees_depends_on_seed_and_step_alone(augmentation, directory):
    whole = batches(directory, 8, augmentation=augmentation)
    tf.random.set_seed(123)
    keras.utils.set_random_seed(4)
    assert_same(batches(directory, 8, augmentation=augmentation), whole)
    for start in (1, 2, 5):  # in the first pass, across its end, and in the third
        assert_same(batches(directory, 8 - start, start_step=start, augmentation=augmentation), whole[start:])


def test_another_seed_is_another_order(directory):
    first, other = batches(directory, 3, seed=1), batches(directory, 3, seed=2)
    assert any((a[1] != b[1]).any() for a, b in zip(first, other, strict=True))


def test_the_training_set_is_endless_and_says_so(directory):
    assert load_dataset(directory, 5, training=True).cardinality() == tf.data.INFINITE_CARDINALITY


def test_fit_takes_it(directory):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(load_dataset(directory, 5, training=True), steps_per_epoch=2, shuffle=False, verbose=0)


def test_other_classes_than_the_model_has_are_refused(directory):
    load_dataset(directory, 5, num_classes=3)
    with pytest.raises(ValueError, match=r"records holds 3 classes\. Expected: num_classes=10"):
        load_dataset(directory, 5, num_classes=10)


def test_start_step_goes_with_training(directory):
    with pytest.raises(ValueError, match="start_step=3, training=False"):
        load_dataset(directory, 5, start_step=3)


def rewrite(directory, *records):
    """Replaces the first shard, as a faulty writer would."""
    info = load_info(directory)
    with tf.io.TFRecordWriter(str(directory / info.shards[0].file)) as writer:
        for record in records:
            writer.write(schema.encode(*record))
    dataclasses.replace(info, shards=info.shards[:1]).save(directory)


def test_a_wrong_label_in_the_records_is_named(directory):
    rewrite(directory, (encode(make_face(0, 0)), 1, "fine.png"), (encode(make_face(0, 0)), 7, "wrong.png"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)labels outside \[0, 3\).*wrong.png.*7"):
        list(load_dataset(directory, 2))


def test_a_wrong_size_in_the_records_is_named(directory):
    rewrite(directory, (encode(make_face(0, 0, size=(16, 32))), 1, "small.png"))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"expected shape \(32, 32, 3\):\] \[small.png\] \[16 32 3\]"
    ):
        list(load_dataset(directory, 1))


def test_a_damaged_shard_is_an_error(directory):
    shard = directory / load_info(directory).shards[0].file
    content = bytearray(shard.read_bytes())
    content[200] ^= 1
    shard.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        list(load_dataset(directory, 2))
