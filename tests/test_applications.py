"""The preprocessing of the families of keras.applications, as docs/training.md describes it."""

import importlib
import pkgutil
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_arcface.models import make_embedder

SECTION = (
    (Path(__file__).parents[1] / "docs" / "training.md")
    .read_text()
    .split("## Networks of keras.applications")[1]
    .split("\n## ")[0]
)
# Names of families by row of the table: rescaling itself, [-1, 1], caffe, torch.
ITSELF, SIGNED, CAFFE, TORCH = (
    re.findall(r"`(\w+)`", line.split("|")[1]) for line in SECTION.splitlines() if re.match(r"\| `(?!keras)", line)
)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def snippet():
    names = {}
    code = re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1]
    functions = code[code.index("def caffe_backbone") : code.index("network = keras.applications.VGG16")]
    exec(functions, {"keras": keras}, names)
    return names


def preprocess(family, pixels):
    return importlib.import_module(f"keras.applications.{family}").preprocess_input(pixels.copy())


def make_identity():
    images = keras.Input(PIXELS.shape[1:])
    return keras.Model(images, keras.layers.Activation("linear")(images), name="network")


def features(embedder):
    inner = keras.Model(embedder.input, embedder.get_layer("neck_bn").input)
    return keras.ops.convert_to_numpy(inner(PIXELS))


def test_all_families_are_in_the_table():
    families = {module.name for module in pkgutil.iter_modules(keras.applications.__path__)}
    assert {*ITSELF, *SIGNED, *CAFFE, *TORCH} == families - {"resnet50", "imagenet_utils"}


@pytest.mark.parametrize("family", ITSELF)
def test_some_networks_rescale_pixels_themselves(family):
    np.testing.assert_array_equal(preprocess(family, PIXELS), PIXELS)
    network = {
        "efficientnet": "EfficientNetB0",
        "efficientnet_v2": "EfficientNetV2B0",
        "mobilenet_v3": "MobileNetV3Small",
        "convnext": "ConvNeXtTiny",
    }[family]
    backbone = getattr(keras.applications, network)(input_shape=(32, 32, 3), include_top=False, weights=None)
    with pytest.raises(ValueError, match="normalize_pixels must be False"):
        make_embedder(backbone, dim=8)
    assert make_embedder(backbone, dim=8, normalize_pixels=False).output_shape == (None, 8)


def test_some_networks_take_the_pixels_of_the_package():
    embedder = make_embedder(make_identity(), dim=8)
    for family in SIGNED:
        np.testing.assert_allclose(features(embedder), preprocess(family, PIXELS), atol=1e-5, err_msg=family)


@pytest.mark.parametrize("kind", ["caffe", "torch"])
def test_the_layers_of_the_documentation_replace_preprocess_input(kind, snippet):
    backbone = snippet[f"{kind}_backbone"](make_identity())
    embedder = make_embedder(backbone, dim=8, normalize_pixels=False)
    for family in {"caffe": CAFFE, "torch": TORCH}[kind]:
        np.testing.assert_allclose(features(embedder), preprocess(family, PIXELS), atol=2e-5, err_msg=family)
