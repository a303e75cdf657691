"""Executes the examples of all docstrings.

An example can use the public names of the package, `keras`, `np`, `model`, a small compiled `RecognitionModel` for the
images of `faces/`, its `embedder`, `images` and `labels` as arrays, and `dataset`, their endless dataset. Its working
directory contains:

    photos/          one folder of four 32 x 32 images for each of the two people `ann` and `bob`
    photos.csv       the same images and labels as a list
    recordio/        the same images as a RecordIO file, `train.rec`, with its index
    faces/           the dataset that `write_dataset` wrote from photos/
    pairs.npz        a `PairSet` of four pairs
    pairs.txt, lfw/  a list of four pairs in the format of LFW, and its images
    Market-1501/     a folder `query` of two people and two cameras
    CUB_200_2011/, cars196/, Stanford_Online_Products/, In-shop/
                     eight images of two classes in the formats of these benchmarks
    IJBC/            eight images of four templates in the format of IJB-C
    YouTubeFaces/    eight frames of four videos, and four pairs in two splits
    MegaFace/        four probes of two people, four distractors, and lists of noise
    RFW/             16 pairs of four groups in the layout of Racial Faces in the Wild
    backbone.safetensors    random weights of a small IResNet with the names of arcface_torch
    network.onnx            a convolution with 8 filters, and the mean of all pixels
    party/                  a photo of two "people", `group.jpg`, whose faces the function `detector` returns

An example that contains one of these paths can also use

    exported/        a SavedModel that `export_saved_model` wrote
    models/faces/    a base path with the versions 1 and 2

Exports are only checked in the example of `check_saved_model`, because each check starts two processes.
"""

import doctest
import importlib
import itertools
import re
import shutil
from pathlib import Path

import face_trees
import keras
import numpy as np
import onnx
import pytest
import recordio_files
import retrieval_trees
import rfw_files
import safetensors.numpy
import tensorflow as tf
from conftest import encode
from conftest import make_face

import keras_arcface
from keras_arcface import data
from keras_arcface import serving
from keras_arcface._alignment import TEMPLATE
from keras_arcface.models import make_embedder
from keras_arcface.pretrained.layouts.iresnet import iresnet_shapes
from keras_arcface.serving.saved_model import export_check

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
    write_lfw(directory, people)
    write_market(directory / "Market-1501" / "query", people)
    write_benchmarks(directory, people)
    rfw_files.write(directory / "RFW")
    retrieval_trees.write_all(directory, people)
    shapes = iresnet_shapes(width=8, blocks=(1, 1, 1, 1), dim=512, feature_map=(2, 2))
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes}
    safetensors.numpy.save_file(arrays, directory / "backbone.safetensors")
    write_onnx(directory / "network.onnx")
    (directory / "party").mkdir()
    (directory / "party" / "group.jpg").write_bytes(encode(make_face(0, 0, (160, 300)), ".jpg"))
    return directory


def detector(photo):
    """Returns two faces of the size of the template."""
    offsets = np.array([[10, 20], [150, 20]])
    return [
        keras_arcface.faces.Face(np.array([*offset, 112, 112]), (TEMPLATE + offset).astype(np.float32), 0.9)
        for offset in offsets
    ]


def write_onnx(path):
    nodes = [
        onnx.helper.make_node("Conv", ["images", "kernel"], ["features"]),
        onnx.helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, 32, 32])
    embedding = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["n", 8])
    kernel = onnx.numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "kernel")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "network", [images], [embedding], [kernel])), path)


def write_lfw(directory, people):
    for name, images in zip(("ann", "bob"), people, strict=True):
        (directory / "lfw" / name).mkdir(parents=True)
        for number, image in enumerate(images, start=1):
            (directory / "lfw" / name / f"{name}_{number:04d}.jpg").write_bytes(image)
    lines = ["2", "ann\t1\t2", "bob\t3\t4", "ann\t1\tbob\t1", "ann\t2\tbob\t3"]
    (directory / "pairs.txt").write_text("\n".join(lines) + "\n")


def write_market(directory, people):
    directory.mkdir(parents=True)
    for identity, images in enumerate(people, start=1):
        for camera in (1, 2):
            (directory / f"{identity:04d}_c{camera}s1_{camera:06d}_00.jpg").write_bytes(images[camera])


def write_benchmarks(directory, people):
    ann, bob = people
    images = dict(zip((f"{number}.jpg" for number in range(1, 9)), itertools.chain(ann, bob), strict=True))
    face_trees.write_ijb(
        directory / "IJBC",
        {name: (image, number // 2 + 1, number + 1, 0.99) for number, (name, image) in enumerate(images.items())},
        pairs=[(1, 2, 1), (3, 4, 1), (1, 3, 0), (2, 4, 0)],
        galleries={"G1": {1: 7}, "G2": {3: 8}},
        probes={2: 7, 4: 8},
        size=32,
    )
    videos = {"ann/0": ann[:2], "ann/1": ann[2:], "bob/0": bob[:2], "bob/1": bob[2:]}
    pairs = [(1, "ann/0", "ann/1", True), (1, "ann/0", "bob/0", False)]
    pairs += [(2, "bob/0", "bob/1", True), (2, "ann/1", "bob/1", False)]
    face_trees.write_ytf(directory / "YouTubeFaces", videos, pairs)
    face_trees.write_megaface(
        directory / "MegaFace",
        {
            f"{name}/{name}_{number}.jpg": images[number]
            for name, images in (("ann", ann), ("bob", bob))
            for number in (0, 1)
        },
        {
            f"1/{name}@N00/{number}.jpg": images[number]
            for name, images in (("ann", ann), ("bob", bob))
            for number in (2, 3)
        },
        noisy_distractors=["1/bob@N00/3.jpg"],
    )


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """The directory with the SavedModel and the base path, which is copied as well."""
    directory = tmp_path_factory.mktemp("exports")
    keras.utils.set_random_seed(0)
    embedder = small_training()["embedder"]
    serving.export_saved_model(embedder, directory / "exported", warmup_batch_sizes=(1, 2), check=False)
    for _ in range(2):
        serving.publish(directory / "exported", directory / "models" / "faces", check=False)
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
def test_examples(file, files, tmp_path, monkeypatch, request):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    if re.search(r'>>> .*"(exported|models/faces)"', file.read_text()):
        shutil.copytree(request.getfixturevalue("exports"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if file.name != "export_check.py":
        monkeypatch.setattr(export_check, "check_saved_model", lambda *arguments: [])
    names = file.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(names).removesuffix(".__init__"))
    globs = {
        "keras": keras,
        "np": np,
        "keras_arcface": keras_arcface,
        "make_embedder": make_embedder,
        "detector": detector,
    }
    for part in (keras_arcface, *(getattr(keras_arcface, name) for name in keras_arcface.__all__)):
        globs |= {name: getattr(part, name) for name in getattr(part, "__all__", ())}
    if re.search(r"^ *(>>>|\.\.\.) [^#]*\b(model|embedder)\b", file.read_text(), re.MULTILINE):
        globs |= small_training()
    failed, _ = doctest.testmod(module, globs={**globs, **vars(module)}, optionflags=OPTIONS)
    assert failed == 0
