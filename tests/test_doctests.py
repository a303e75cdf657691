"""Executes the examples of all docstrings.

An example can use the public names of the package, `keras`, `np`, `model`, a small compiled `RecognitionModel` for the
images of `faces/`, its `embedder`, `images` and `labels` as arrays, and `dataset`, their endless dataset. Its working
directory contains:

    photos/          one folder of four 32 x 32 images for each of the two people `ann` and `bob`
    photos.csv       the same images and labels as a list
    recordio/        the same images as a RecordIO file, `train.rec`, with its index
    faces/           the dataset that `write_dataset` wrote from photos/
    pairs.npz        a `PairSet` of four pairs
"""

import doctest
import importlib
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import recordio_files
import tensorflow as tf
from conftest import encode
from conftest import make_face

import keras_arcface
from keras_arcface import data
from keras_arcface.models import make_embedder

PACKAGE = Path(keras_arcface.__file__).parent
FILES = sorted(file for file in PACKAGE.rglob("*.py") if ">>> " in file.read_text())
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The directory that is copied to the working directory of every example."""
    directory = tmp_path_factory.mktemp("files")
    people = [[encode(make_face(person, image), ".jpg") for image in range(4)] for person in range(2)]
    lines = []
    for label, (name, images) in enumerate(zip(("ann", "bob"), people, strict=True)):
        (directory / "photos" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            (directory / "photos" / name / f"{number}.jpg").write_bytes(image)
            lines.append(f"photos/{name}/{number}.jpg,{label}\n")
    (directory / "photos.csv").write_text("".join(lines))
    (directory / "recordio").mkdir()
    recordio_files.write(directory / "recordio" / "train.rec", recordio_files.ms1m_layout(people), "2,32,32\n")
    data.write_dataset(data.ImageFolder(directory / "photos"), directory / "faces")
    ann, bob = people
    pairs = data.PairSet([ann[0], ann[1], ann[2], bob[2], bob[0], bob[1], bob[3], ann[3]], [True, False] * 2)
    pairs.save(directory / "pairs.npz")
    return directory


def small_training():
    """Returns a compiled model, its embedder, and images with labels of two people, as arrays and as a dataset."""
    images = np.stack([make_face(person, image) for image in range(6) for person in range(2)])
    labels = np.arange(12, dtype=np.int32) % 2
    backbone = keras_arcface.backbones.IResNet((1,), width=8, input_shape=(32, 32, 3))
    model = keras_arcface.RecognitionModel(make_embedder(backbone, dim=8), keras_arcface.ArcFace(num_classes=2))
    model.compile("sgd")
    model.build((None, 32, 32, 3))
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4).repeat()
    return {"model": model, "embedder": model.embedder, "images": images, "labels": labels, "dataset": dataset}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_examples(file, files, tmp_path, monkeypatch):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names = file.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(names).removesuffix(".__init__"))
    globs = {"keras": keras, "np": np, "keras_arcface": keras_arcface, "make_embedder": make_embedder}
    for part in (keras_arcface, *(getattr(keras_arcface, name) for name in keras_arcface.__all__)):
        globs |= {name: getattr(part, name) for name in getattr(part, "__all__", ())}
    if re.search(r"^ *(>>>|\.\.\.) [^#]*\b(model|embedder)\b", file.read_text(), re.MULTILINE):
        globs |= small_training()
    failed, _ = doctest.testmod(module, globs={**globs, **vars(module)}, optionflags=OPTIONS)
    assert failed == 0
