import dataclasses
import hashlib
import json

import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face

from keras_arcface.data import ImageFolder
from keras_arcface.data import load_info
from keras_arcface.data import schema
from keras_arcface.data import write_dataset
from keras_arcface.data.sources import Record


def read_records(directory, info):
    serialized = [record for shard in info.shards for record in tf.data.TFRecordDataset(str(directory / shard.file))]
    images, labels, names = schema.parse(tf.stack(serialized))
    return sorted(zip(images.numpy(), labels.numpy().tolist(), map(bytes.decode, names.numpy()), strict=True))


def test_every_image_arrives_untouched(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    info = write_dataset(faces, tmp_path / "out", examples_per_shard=5)
    assert read_records(tmp_path / "out", info) == sorted(tuple(record) for record in faces)


def test_dataset_json_tells_the_truth(face_folder, tmp_path):
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out", examples_per_shard=5)
    assert load_info(tmp_path / "out") == info
    assert (info.num_classes, info.num_examples, info.image_size) == (3, 12, (32, 32))
    assert info.class_names == ("person_0", "person_1", "person_2")
    assert [shard.num_examples for shard in info.shards] == [4, 4, 4]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00000-of-00003.tfrecord",
        "00001-of-00003.tfrecord",
        "00002-of-00003.tfrecord",
        "dataset.json",
    ]
    for shard in info.shards:
        content = (tmp_path / "out" / shard.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.num_bytes, shard.sha256)


def test_people_are_mixed_and_the_seed_decides_how(face_folder, tmp_path):
    def labels_in_order(name, seed):
        info = write_dataset(ImageFolder(face_folder), tmp_path / name, seed=seed)
        serialized = list(tf.data.TFRecordDataset(str(tmp_path / name / info.shards[0].file)))
        return schema.parse(tf.stack(serialized))[1].numpy().tolist(), info.shards

    first, again, other = labels_in_order("a", 1), labels_in_order("b", 1), labels_in_order("c", 2)
    assert first == again
    assert first[0] != other[0]
    assert first[0] != sorted(first[0])


def test_a_dataset_is_never_overwritten(face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "out")
    with pytest.raises(FileExistsError, match="out holds a dataset already"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not an image"])
def test_a_broken_image_is_named_and_no_dataset_json_is_left(damage, face_folder, tmp_path):
    path = face_folder / "person_1" / "1.jpg"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"person_1/1.jpg is not a readable image. Expected: a whole JPEG"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="written last: without it, writing did not finish"):
        load_info(tmp_path / "out")


def test_an_image_of_another_size_is_named(face_folder, tmp_path):
    (face_folder / "person_2" / "1.jpg").write_bytes(encode(make_face(2, 1, size=(40, 32)), ".jpg"))
    with pytest.raises(ValueError, match=r"person_2/1.jpg has another size.*Expected: 32 x 32.*Received: 40 x 32"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")


class Faces(list):
    """A source made of records."""

    num_classes = 2


def test_a_label_outside_the_range_is_named(tmp_path):
    faces = Faces(Record(encode(make_face(label, 0)), label, f"face {label}") for label in (0, 1, 2))
    with pytest.raises(ValueError, match=r"face 2 has a label outside \[0, 2\). Received: label 2"):
        write_dataset(faces, tmp_path / "out")


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no images: there is nothing to write"):
        write_dataset(Faces(), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], "dataset.json cannot be used"),
        (lambda text: text.replace('"num_classes"', '"classes"'), "dataset.json cannot be used.*classes"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 9'), "schema version 9, this package"),
    ],
)
def test_a_damaged_dataset_json_is_named(change, message, face_folder, tmp_path):
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out")
    path = tmp_path / "out" / "dataset.json"
    assert json.loads(path.read_text()).keys() == dataclasses.asdict(info).keys()
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load_info(tmp_path / "out")
