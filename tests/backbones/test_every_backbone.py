"""What every backbone must do: published sizes, saving, training and mixed precision."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from small_resnet import small_resnet
from tiny_models import EAGER_IF_FASTER

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import _cpu_training
from keras_arcface import backbones
from keras_arcface.backbones import edgeface
from keras_arcface.backbones import ghostfacenet
from keras_arcface.models import make_embedder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
multiply_adds = runpy.run_path(str(BENCHMARKS / "multiply_adds.py"))["multiply_adds"]

# Small networks of every family, and their necks. GhostFaceNetV2 has all layers of GhostFaceNetV1.
SMALL = {
    "EdgeFace": (lambda: backbones.EdgeFace((8, 16, 24, 32), 4, 0.5, 8, (32, 40, 3)), "linear"),
    "EdgeNeXt": (lambda: backbones.EdgeFace((4, 8, 12, 16), 4, None, 8, (32, 32, 3)), "linear"),
    "GhostFaceNet": (lambda: backbones.GhostFaceNetV2(0.25, (36, 32, 3)), "E"),
    "IResNet": (lambda: backbones.IResNet((1, 1), 8, (16, 16, 3)), "E"),
    "MobileFaceNet": (lambda: backbones.MobileFaceNet(16, (32, 32, 3), blocks=(1, 1, 1, 1)), "E"),
    "MobileNetV1": (lambda: backbones.MobileNetV1(4, (32, 32, 3), stages=((2,), (4, 4))), "E"),
    "ResNet": (lambda: backbones.ResNet50((32, 32, 3), last_stride=1), "BNNeck"),
    "ViT": (lambda: backbones.ViT(16, 2, heads=4, drop_path=0.2, input_shape=(19, 36, 3)), "E"),
}

# Fewer blocks of the networks whose depth is not an argument. Every kind of block remains.
_GHOST = ghostfacenet._STAGES
SHALLOW = [
    (edgeface, "STAGES", tuple(stage._replace(convolutions=1) for stage in edgeface.STAGES)),
    (keras.applications, "ResNet50", small_resnet),
    (ghostfacenet, "_STAGES", (_GHOST[0], _GHOST[1][:1], _GHOST[2][:1], _GHOST[3][::5], _GHOST[4][-1:])),
]

# Loads models and compares their outputs, in a process without this package.
LOAD = """
import json, sys
import keras, numpy as np
for name in json.loads(sys.argv[2]):
    model = keras.saving.load_model(f"{sys.argv[1]}/{name}.keras")
    saved = np.load(f"{sys.argv[1]}/{name}.npz")
    outputs = keras.ops.convert_to_numpy(model(saved["images"]))
    np.testing.assert_allclose(outputs, saved["outputs"], rtol=1e-4, atol=1e-5, err_msg=name)
assert not any(name.split(".")[0] == "keras_arcface" for name in sys.modules)
"""


def make_images(embedder, count=4, seed=0):
    shape = (count, *embedder.input_shape[1:])
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def make_small(name, dim=8):
    make_backbone, neck = SMALL[name]
    return make_embedder(make_shallow(make_backbone), dim=dim, dropout=0.0, neck=neck)


def make_shallow(make_backbone, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        for module, name, stages in SHALLOW:
            patch.setattr(module, name, stages)
        return make_backbone(**kwargs)


def values_of(model):
    return {weight.path: keras.ops.convert_to_numpy(weight).copy() for weight in model.weights}


def test_every_backbone_is_tested():
    families = {name for name in backbones.__all__ if not any(name.startswith(other) for other in SMALL)}
    assert not families


@pytest.mark.parametrize(
    ("name", "options", "dim", "millions", "published", "factor"),
    [
        # The paper, table 2: 0.99 million weights and 221 million multiply-adds.
        ("MobileFaceNet", {}, 128, 1.02, 221, 1),
        # face_recognition_sface_2021dec.onnx, whose multiply-adds are not published.
        ("MobileNetV1", {}, 128, 9.67, None, 1),
        # The README of EdgeFace: MPARAMS and MFLOPs, which count multiplications and additions.
        ("EdgeFaceXS", {}, 512, 1.77, 154.00, 2),
        ("EdgeFaceS", {}, 512, 3.65, 306.12, 2),
        # Flops.ipynb of GhostFaceNets prints 6,880,288 weights of GhostFaceNetV2-1.3-1, with the scale of the last
        # BatchNorm, and also counts normalization and activation.
        ("GhostFaceNetV2", {}, 512, (6_880_288 - 512) / 1e6, 272.11, 1),
        # The README of arcface_torch has the FLOPs. Its ViT-T has 19,137,792 weights, with a mask token (256), a bias
        # of the patches (256) and the scale of the last BatchNorm (512), and 1536 statistics.
        ("ViTTiny", {}, 512, (19_137_792 - 1024 + 1536) / 1e6, 1500, 1),
        pytest.param("ViTSmall", {}, 512, 76.02, 5700, 1, marks=pytest.mark.slow),
        pytest.param("ViTBase", {}, 512, 113.83, 11_400, 1, marks=pytest.mark.slow),
        pytest.param("IResNet18", {}, 512, 24.03, 2600, 1, marks=pytest.mark.slow),
        pytest.param("IResNet50", {}, 512, 43.61, 6300, 1, marks=pytest.mark.slow),
    ],
)
def test_published_size(name, options, dim, millions, published, factor):
    neck = "linear" if name.startswith("EdgeFace") else "E"
    embedder = make_embedder(getattr(backbones, name)(**options), dim=dim, neck=neck)
    count, counted = embedder.count_params() / 1e6, multiply_adds(embedder) / 1e6
    print(f"{name} {options}: {count:.4f} million weights, {counted:.1f} million multiply-adds, published {published}")
    assert count == pytest.approx(millions, abs=0.006 if millions == round(millions, 2) else 1e-9)
    if published:
        assert factor * counted == pytest.approx(published, rel=0.025)


@pytest.fixture(scope="module")
def trained():
    """Small embedders after a training step, and their weights before it. The step sets the statistics of BatchNorm."""
    # XLA would compile every PReLU for its shape.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cpu_training, "_is_available", lambda: False)
        return {name: train_one_step(name) for name in SMALL}


def train_one_step(name):
    keras.utils.set_random_seed(1)
    embedder = make_small(name)
    for layer in embedder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model = RecognitionModel(embedder, ArcFace(4, scale=16.0))
    # Gradients of layers in front of a LayerScale are small at first.
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-20), **EAGER_IF_FASTER)
    before = values_of(embedder)
    assert np.isfinite(model.train_on_batch(make_images(embedder, 8), np.arange(8, dtype=np.int32) % 4)).all()
    return embedder, before


def test_a_training_step_changes_all_weights(trained):
    for name, (embedder, before) in trained.items():
        after = values_of(embedder)
        assert [path for path in before if np.array_equal(before[path], after[path])] == [], name


def test_saved_embedders_are_plain_keras(trained, tmp_path):
    for name, (embedder, _) in trained.items():
        before = values_of(embedder)
        images = make_images(embedder)
        np.savez(tmp_path / f"{name}.npz", images=images, outputs=keras.ops.convert_to_numpy(embedder(images)))
        embedder.save(tmp_path / f"{name}.keras")
        # A call without `training` is inference in every layer.
        after = values_of(embedder)
        assert all(np.array_equal(before[path], after[path]) for path in before), name
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), json.dumps(list(trained))],
        env={**os.environ, "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="synchronized=True needs TensorFlow")
@pytest.mark.parametrize(
    "make_backbone",
    [
        lambda **kwargs: backbones.IResNet((2, 1), **kwargs),
        lambda **kwargs: backbones.MobileFaceNet(blocks=(1, 1, 1, 1), **kwargs),
        lambda **kwargs: backbones.MobileNetV1(stages=((2,), (4, 4)), **kwargs),
        lambda **kwargs: backbones.GhostFaceNetV2(0.25, **kwargs),
    ],
)
def test_every_batch_norm_can_be_synchronized(make_backbone):
    model = make_shallow(make_backbone, input_shape=(32, 32, 3), synchronized=True)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms
    assert all(layer.synchronized for layer in norms)


@pytest.mark.parametrize("name", ["EdgeFace", "GhostFaceNet", "ViT"])
def test_mixed_precision(name, trained):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        embedder = make_small(name)
    finally:
        keras.config.set_dtype_policy(before)
    exact, _ = trained[name]
    embedder.set_weights(exact.get_weights())
    images = make_images(embedder)
    outputs = embedder(images)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    outputs = keras.ops.convert_to_numpy(outputs)
    expected = keras.ops.convert_to_numpy(exact(images))
    np.testing.assert_allclose(outputs, expected, atol=0.02 * np.abs(expected).max())
