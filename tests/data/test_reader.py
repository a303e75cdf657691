import collections
import dataclasses
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import decode
from conftest import encode
from conftest import make_face
from conftest import write_face_folder
from hypothesis import given
from hypothesis import strategies as st

from keras_arcface.data import ImageFolder
from keras_arcface.data import augment
from keras_arcface.data import load_dataset
from keras_arcface.data import load_info
from keras_arcface.data import reader
from keras_arcface.data import schema
from keras_arcface.data import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_face_folder(tmp_path_factory.mktemp("images") / "faces")


@pytest.fixture(scope="module")
def directory(folder, tmp_path_factory):
    """A dataset that tests only read."""
    directory = tmp_path_factory.mktemp("dataset") / "records"
    write_dataset(ImageFolder(folder), directory, examples_per_shard=4)
    return directory


@pytest.fixture
def own_directory(directory, tmp_path):
    """A copy of the dataset that a test may damage."""
    return shutil.copytree(directory, tmp_path / "records")


def batches(directory, count, batch_size=5, seed=1, **kwargs):
    dataset = load_dataset(directory, batch_size, training=True, seed=seed, **kwargs)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def test_one_epoch_contains_every_image_unchanged(folder, directory):
    dataset = load_dataset(directory, batch_size=5)
    images = np.concatenate([images for images, _ in dataset])
    labels = np.concatenate([labels for _, labels in dataset])
    assert images.dtype == np.uint8
    expected = {(decode(record.image).tobytes(), record.label) for record in ImageFolder(folder)}
    assert {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)} == expected
    assert len(images) == 12


def test_shapes_are_static_in_training(directory):
    images, labels = load_dataset(directory, 5, training=True).element_spec
    assert (images.shape, images.dtype) == ((5, 32, 32, 3), tf.uint8)
    assert (labels.shape, labels.dtype) == ((5,), tf.int64)


def test_every_epoch_contains_every_image_once_in_another_order(directory):
    per_pass = [images for images, _ in batches(directory, 9, batch_size=4, augmentation=None)]
    passes = [np.concatenate(per_pass[start : start + 3]) for start in (0, 3, 6)]
    contents = [[image.tobytes() for image in images] for images in passes]
    assert sorted(contents[0]) == sorted(contents[1]) == sorted(contents[2])
    assert len(set(contents[0])) == 12
    assert contents[0] != contents[1] != contents[2]


@pytest.mark.parametrize("augmentation", [None, augment.affine])
def test_what_a_step_sees_depends_on_seed_and_step_alone(augmentation, directory):
    whole = batches(directory, 8, augmentation=augmentation)
    tf.random.set_seed(123)
    keras.utils.set_random_seed(4)
    assert_same(batches(directory, 8, augmentation=augmentation), whole)
    # Step 2 crosses the end of the first epoch.
    assert_same(batches(directory, 6, start_step=2, augmentation=augmentation), whole[2:])


def test_an_augmentation_of_the_user_may_have_conditions_on_tensors(directory):
    def invert_in_odd_steps(images, seed):
        if seed[1] % 2 == 1:
            images = 255 - images
        return images

    plain = batches(directory, 2, augmentation=None)
    (first, _), (second, _) = batches(directory, 2, augmentation=invert_in_odd_steps)
    np.testing.assert_array_equal(first, plain[0][0])
    np.testing.assert_array_equal(second, 255 - plain[1][0])


@pytest.mark.parametrize("cache", [None, "encoded", "decoded"])
def test_names_of_the_images(cache, folder, directory):
    for images, labels, names in load_dataset(directory, 5, names=True, augmentation=None, cache=cache):
        for image, label, name in zip(images, labels, names, strict=True):
            expected = decode((folder / name.numpy().decode()).read_bytes())
            np.testing.assert_array_equal(image, expected)
            assert f"person_{int(label)}" in name.numpy().decode()


def test_another_seed_is_another_order(directory):
    first, other = batches(directory, 3, seed=1), batches(directory, 3, seed=2)
    assert any((a[1] != b[1]).any() for a, b in zip(first, other, strict=True))


def test_any_integer_is_a_seed(directory):
    assert_same(batches(directory, 1, seed=np.int64(5)), batches(directory, 1, seed=5))
    batches(directory, 1, seed=-1)


def test_the_training_dataset_has_infinite_cardinality(directory):
    assert load_dataset(directory, 5, training=True).cardinality() == tf.data.INFINITE_CARDINALITY


def test_fit_accepts_the_dataset(directory):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(load_dataset(directory, 5, training=True), steps_per_epoch=2, shuffle=False, verbose=0)


def test_another_number_of_classes_is_rejected(directory):
    load_dataset(directory, 5, num_classes=3)
    with pytest.raises(
        ValueError, match=r"num_classes must be 3, the number of classes in .*records\. Received: num_classes=10"
    ):
        load_dataset(directory, 5, num_classes=10)


def test_start_step_requires_training(directory):
    with pytest.raises(ValueError, match=r"start_step requires training=True. Received: start_step=3, training=False"):
        load_dataset(directory, 5, start_step=3)


def rewrite(directory, *records):
    """Replaces all shards by one with these records."""
    info = load_info(directory)
    path = directory / info.shards[0].file
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(b"".join(schema.encode(*record)))
    shard = dataclasses.replace(info.shards[0], num_examples=len(records), num_bytes=path.stat().st_size)
    skipped = ("skipped.png",) * info.num_classes  # not every class has an image
    dataclasses.replace(info, shards=(shard,), num_examples=len(records), skipped=skipped).save(directory)


def test_a_wrong_label_in_the_records_is_named(own_directory):
    rewrite(own_directory, (encode(make_face(0, 0)), 1, "fine.png"), (encode(make_face(0, 0)), 7, "wrong.png"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)labels must be in \[0, 3\).*wrong.png.*7"):
        list(load_dataset(own_directory, 2))


def test_a_wrong_size_in_the_records_is_named(own_directory):
    rewrite(own_directory, (encode(make_face(0, 0, size=(16, 32))), 1, "small.png"))
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"have the size \(32, 32\) .height, width.. Received:\] \[small.png\] \[\[16 32\]\]",
    ):
        list(load_dataset(own_directory, 1))


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"training": True}, {"training": True, "images_per_class": 1}, {"cache": "encoded"}, {"cache": "decoded"}],
)
def test_another_number_of_records_than_in_dataset_json_is_named(options, number, change, own_directory):
    info = load_info(own_directory)
    shards = list(info.shards)
    shards[number] = dataclasses.replace(shards[number], num_examples=shards[number].num_examples + change)
    dataclasses.replace(info, shards=tuple(shards), num_examples=info.num_examples + change).save(own_directory)
    path, expected = own_directory / shards[number].file, shards[number].num_examples
    with pytest.raises(
        (tf.errors.OpError, ValueError), match=f"{path} must have {expected} records, as in dataset.json"
    ):
        for _ in load_dataset(own_directory, 2, **options).take(100):
            pass


def test_more_records_than_in_dataset_json_are_not_skipped_damage(own_directory):
    info = load_info(own_directory)
    shards = (dataclasses.replace(info.shards[0], num_examples=1), *info.shards[1:])
    num_examples = sum(shard.num_examples for shard in shards)
    dataclasses.replace(info, shards=shards, num_examples=num_examples).save(own_directory)
    with pytest.raises(ValueError, match=r"must have 1 records, as in dataset.json. Received: more records"):
        load_dataset(own_directory, 2, damaged="skip")


@pytest.mark.parametrize("label", [3, 2**63 - 1])
def test_a_wrong_label_in_an_index_is_named(label, own_directory):
    rewrite(own_directory, (encode(make_face(0, 0)), 1, "fine.png"), (encode(make_face(0, 0)), label, "wrong.png"))
    with pytest.raises(
        ValueError, match=rf"tfrecord: .* at offset \d+ must have a label in \[0, 3\). Received: label={label}"
    ):
        load_dataset(own_directory, 2, training=True, images_per_class=1)


def flip_a_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


MODES = [
    {},
    {"training": True},
    {"training": True, "images_per_class": 1},
    {"cache": "encoded"},
    {"training": True, "cache": "decoded"},
]


@pytest.mark.parametrize("mode", MODES)
def test_a_damaged_record_raises_and_is_named(mode, own_directory):
    path = own_directory / load_info(own_directory).shards[1].file
    flip_a_bit(path, 200)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=rf"{path}: damaged record at offset 0"):
        for _ in load_dataset(own_directory, 2, **mode).take(100):
            pass


@pytest.mark.parametrize("mode", MODES)
def test_damaged_records_can_be_skipped_and_are_counted(mode, own_directory, caplog):
    directory = own_directory
    contents = {image.tobytes() for images, _ in load_dataset(directory, 4) for image in images.numpy()}
    files = [directory / shard.file for shard in load_info(directory).shards]
    flip_a_bit(files[1], 200)  # an image
    flip_a_bit(files[2], 2)  # a length
    batches = load_dataset(directory, 2, damaged="skip", augmentation=None, **mode).take(100)
    left = {image.tobytes() for images, _ in batches for image in images.numpy()}
    assert left < contents
    assert len(left) == 10
    assert f"{files[1]}: damaged record at offset 0: expected data with checksum " in caplog.text
    assert (
        f"{files[2]}: damaged record at offset 0: expected a length that matches its checksum. Received: "
        in caplog.text
    )
    assert f"{directory}: skipped 2 of 12 records that are damaged" in caplog.text


def test_a_step_is_the_same_if_damaged_records_are_skipped(own_directory):
    flip_a_bit(own_directory / load_info(own_directory).shards[1].file, 200)
    whole = batches(own_directory, 6, damaged="skip")
    assert_same(batches(own_directory, 3, start_step=3, damaged="skip"), whole[3:])


def test_a_shard_of_another_size_is_detected_at_once(own_directory):
    directory = own_directory
    path = directory / load_info(directory).shards[2].file
    content = path.read_bytes()
    path.write_bytes(content[:-16])
    with pytest.raises(ValueError, match=rf"{path} is damaged. Expected: {len(content)} bytes. Received: "):
        load_dataset(directory, 2)
    path.unlink()
    with pytest.raises(ValueError, match="Received: no such file"):
        load_dataset(directory, 2)


def test_a_fifo_instead_of_a_shard_is_named(own_directory):
    path = own_directory / load_info(own_directory).shards[1].file
    path.unlink()
    os.mkfifo(path)
    for damaged in ("raise", "skip"):  # opening the FIFO would block
        with pytest.raises(ValueError, match=f"{path} (is damaged|must be a regular file)"):
            load_dataset(own_directory, 2, damaged=damaged)


def test_no_readable_record(own_directory):
    directory = own_directory
    for shard in load_info(directory).shards:
        (directory / shard.file).write_bytes(b"")
    with pytest.raises(ValueError, match=r"must contain undamaged records. Received: 12 damaged records"):
        load_dataset(directory, 2, damaged="skip")


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
def test_a_cached_dataset_equals_the_files(cache, directory):
    from_files, from_memory = (list(load_dataset(directory, 5, cache=where)) for where in (None, cache))
    assert_same([(i.numpy(), n.numpy()) for i, n in from_memory], [(i.numpy(), n.numpy()) for i, n in from_files])


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
def test_training_from_memory(cache, directory):
    whole = batches(directory, 9, batch_size=4, augmentation=None, cache=cache)
    epochs = [[image.tobytes() for images, _ in whole[start : start + 3] for image in images] for start in (0, 3, 6)]
    assert len(set(epochs[0])) == 12
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    augmented = batches(directory, 8, cache=cache)
    assert_same(batches(directory, 6, start_step=2, cache=cache), augmented[2:])
    if cache == "decoded":
        assert_same(batches(directory, 8, cache="encoded"), augmented)
    other = batches(directory, 3, batch_size=4, seed=2, augmentation=None, cache=cache)
    assert any((a[1] != b[1]).any() for a, b in zip(whole, other, strict=False))


@pytest.mark.parametrize(("mode", "num_hosts"), [({}, 3), ({"cache": "encoded"}, 2)])
def test_the_parts_of_hosts_are_disjoint_and_together_the_batch_of_one(mode, num_hosts, directory):
    one = batches(directory, 5, batch_size=2 * num_hosts, **mode)
    shares = [batches(directory, 5, batch_size=2, host=host, num_hosts=num_hosts, **mode) for host in range(num_hosts)]
    assert_same([tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*shares, strict=True)], one)
    resumed = batches(directory, 2, batch_size=2, host=1, num_hosts=num_hosts, start_step=3, **mode)
    assert_same(resumed, shares[1][3:])


def test_hosts_augment_differently(own_directory):
    directory = own_directory
    rewrite(directory, *[(encode(make_face(0, 0)), 0, f"{index}") for index in range(64)])
    shares = [batches(directory, 1, batch_size=32, host=host, num_hosts=2)[0][0] for host in range(2)]
    assert (shares[0] != shares[1]).any()


@pytest.mark.parametrize("cache", [None, "encoded"])
def test_parts_of_one_epoch(cache, directory):
    shares = [list(load_dataset(directory, 4, host=host, num_hosts=5, cache=cache)) for host in range(5)]
    assert [sum(len(labels) for _, labels in share) for share in shares] == [2, 2, 3, 2, 3]
    contents = [image.tobytes() for share in shares for images, _ in share for image in images.numpy()]
    assert len(set(contents)) == len(contents) == 12


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 5))
def test_the_number_of_batches_in_an_epoch(num_examples, batch_size, num_hosts):
    for host in range(num_hosts):
        host_batches = reader._HostBatches(batch_size, host, num_hosts)
        assert host_batches.num_per_epoch(num_examples) == len(list(host_batches.from_stream(range(num_examples))))


def test_one_epoch_knows_its_number_of_batches(directory):
    for host in range(2):
        dataset = load_dataset(directory, 5, host=host, num_hosts=2)
        assert dataset.cardinality() == len(list(dataset)) == 2


@pytest.mark.parametrize("cache", [None, "encoded", "decoded"])
def test_batches_of_p_classes_with_k_images_each(cache, directory):
    seen = []
    for images, labels in batches(directory, 9, batch_size=4, images_per_class=2, augmentation=None, cache=cache):
        assert labels[0] == labels[1] != labels[2] == labels[3]
        assert len({image.tobytes() for image in images}) == 4
        seen += [image.tobytes() for image in images]
    assert len(set(seen)) == 12


def test_images_of_small_classes_repeat_evenly(directory):
    for images, labels in batches(directory, 6, batch_size=14, images_per_class=7, augmentation=None):
        for label in np.unique(labels):
            counts = np.unique([image.tobytes() for image in images[labels == label]], return_counts=True)[1]
            assert len(counts) == (4, 3, 5)[label]
            assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("cache", [None, "decoded"])
def test_balanced_steps_depend_on_seed_and_step_alone(cache, directory):
    whole = batches(directory, 8, batch_size=4, images_per_class=2, cache=cache)
    assert_same(batches(directory, 3, batch_size=4, images_per_class=2, start_step=5, cache=cache), whole[5:])


def test_classes_are_balanced_over_hosts(directory):
    one = batches(directory, 3, batch_size=6, images_per_class=2)
    hosts = [batches(directory, 3, batch_size=2, images_per_class=2, host=host, num_hosts=3) for host in range(3)]
    for step, (images, labels) in enumerate(one):
        np.testing.assert_array_equal(np.concatenate([hosts[host][step][0] for host in range(3)]), images)
        np.testing.assert_array_equal(np.concatenate([hosts[host][step][1] for host in range(3)]), labels)


def test_nondeterministic_order_has_the_same_batches(directory):
    """All batches are different, so none is missing. Up to 6 later ones may overtake one of the first 24."""
    ordered = batches(directory, 24, batch_size=1, augmentation=augment.affine)
    free = batches(directory, 30, batch_size=1, augmentation=augment.affine, deterministic=False)
    in_order, given = (collections.Counter(images.tobytes() for images, _ in part) for part in (ordered, free))
    assert len(in_order) == 24
    assert in_order <= given


def test_iterating_again_returns_the_same_batches(directory):
    dataset = load_dataset(directory, 5, training=True, start_step=3).take(4)
    first, second = ([(i.numpy(), n.numpy()) for i, n in dataset] for _ in range(2))
    assert_same(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1. Received: batch_size=0"),
        ({"shuffle_buffer": 0}, "shuffle_buffer must be an integer of at least 1. Received: shuffle_buffer=0"),
        ({"start_step": -1, "training": True}, "start_step must be an integer of at least 0. Received: start_step=-1"),
        ({"images_per_class": 2}, "images_per_class requires training=True. Received: images_per_class=2, train"),
        (
            {"images_per_class": 3, "training": True},
            "images_per_class must be a divisor of batch_size=4. Received: images_per_class=3",
        ),
        (
            {"images_per_class": 1, "training": True},
            "must have at least 4 classes for batches with 1 images per class. Received: 3 classes",
        ),
        ({"cache": True}, 'cache must be None, "encoded" or "decoded". Received: cache=True'),
        ({"damaged": "ignore"}, "damaged must be one of raise, skip. Received: damaged='ignore'"),
        ({"host": 2, "num_hosts": 2}, r"host must be in \[0, num_hosts=2\). Received: host=2"),
    ],
)
def test_invalid_arguments(arguments, message, directory):
    with pytest.raises(ValueError, match=message):
        load_dataset(directory, **{"batch_size": 4, **arguments})
