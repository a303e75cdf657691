"""A network is only built from a file that has all its arrays, with the expected shapes."""

import numpy as np
import pytest

from keras_arcface import backbones
from keras_arcface.pretrained import insightface
from keras_arcface.pretrained import load_insightface
from keras_arcface.pretrained.layouts.edgeface import edgeface_shapes
from keras_arcface.pretrained.layouts.iresnet import iresnet_shapes
from keras_arcface.pretrained.layouts.layout import MAX_BLOCKS
from keras_arcface.pretrained.layouts.mobilefacenet import mobilefacenet_shapes
from keras_arcface.pretrained.layouts.mobilenet import mobilenet_shapes
from keras_arcface.pretrained.layouts.vit import vit_shapes
from keras_arcface.pretrained.weights import Weights

SHAPES = {
    "iresnet": dict(iresnet_shapes(2, (1, 2, 1, 1), 3, (2, 2))),
    "iresnet, pooled shortcut": dict(iresnet_shapes(2, (1, 2, 1, 1), 3, (2, 2), pooled_shortcut=True)),
    "mobilefacenet": dict(mobilefacenet_shapes(4, (1, 1, 2, 1), 2, 3, (2, 2))),
    "mobilefacenet, depthwise stem": dict(mobilefacenet_shapes(4, (1, 0, 1, 1), 1, 3, (2, 2))),
    "mobilefacenet, bottlenecks in the stem": dict(mobilefacenet_shapes(4, (2, 1, 1, 1), 1, 3, (2, 2))),
    "sface": dict(mobilenet_shapes(2, 3, (2, 2))),
    "vit": dict(vit_shapes(8, 2, 4, 3)),
    "edgeface": dict(edgeface_shapes((4, 4, 8, 8), 4, 3, 0.6)),
}


class BuiltError(Exception):
    """Error in place of the network."""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Function that loads a file of zeros with some shapes."""

    def load(shapes):
        def read(_path, _suffix):
            weights = Weights(10**8)
            for name, shape in shapes.items():
                weights.add(name, np.zeros(shape), f"key {name!r}")
            return weights

        monkeypatch.setattr(insightface, "_read", read)
        (tmp_path / "model.pth").touch()
        return load_insightface(tmp_path / "model.pth")

    return load


@pytest.fixture
def not_built(monkeypatch):
    def build(*_args, **_kwargs):
        raise BuiltError

    monkeypatch.setattr(backbones, "IResNet", build)
    monkeypatch.setattr(backbones, "MobileFaceNet", build)
    monkeypatch.setattr(backbones, "MobileNetV1", build)
    monkeypatch.setattr(backbones, "ViT", build)
    monkeypatch.setattr(backbones, "EdgeFace", build)


@pytest.mark.parametrize("name", SHAPES)
def test_the_expected_arrays_are_those_of_the_network(load, name):
    """A missing or an additional array is an error when the network gets its weights."""
    assert load(SHAPES[name]).output_shape == (None, 3)


@pytest.mark.parametrize("network", SHAPES)
def test_a_network_with_a_missing_array_is_not_built(load, not_built, network):
    with pytest.raises(BuiltError):
        load(SHAPES[network])
    for missing in SHAPES[network]:
        with pytest.raises(ValueError, match=r"model.pth cannot be loaded: expected .* Received: .*"):
            load({name: shape for name, shape in SHAPES[network].items() if name != missing})


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        ("iresnet", {"conv1.weight": (2, 3, 1, 1)}, r"conv1.weight with shape \(2, 3, 3, 3\)"),
        ("iresnet", {"layer4.0.conv2.weight": (1,)}, r"layer4.0.conv2.weight with shape \(16, 16, 3, 3\)"),
        ("iresnet", {"layer3.70.bn1.weight": (1,)}, r"layer3.1.conv1.weight with shape \(8, 8, 3, 3\)"),
        ("iresnet", {"fc.weight": (1, 7)}, r"fc.weight with 16 \* side\^2 columns"),
        ("mobilefacenet", {"layers.1.layers.0.weight": (4, 3, 3, 3)}, "for groups of equal size of 4 channels"),
        ("mobilefacenet", {"layers.1.layers.0.weight": (4, 8, 3, 3)}, "for groups of equal size of 4 channels"),
        ("mobilefacenet", {"conv_sep.layers.0.weight": (512, 9, 1, 1)}, r"with shape \(512, 8, 1, 1\)"),
        ("vit", {"pos_embed": (1, 5, 8)}, r"pos_embed for side\^2 patches of square images"),
        ("vit", {"patch_embed.proj.weight": (9, 3, 9, 9)}, "with a multiple of 8 channels"),
        ("mobilefacenet", {"layers.5.layers.2.x": (1,)}, r"layers.5.layers.2.\S+ with shape"),
    ],
)
def test_a_network_with_an_array_of_another_shape_is_not_built(load, not_built, network, change, message):
    with pytest.raises(ValueError, match=rf"model.pth cannot be loaded: expected .*{message}.* Received: "):
        load({**SHAPES[network], **change})


def test_a_stage_without_blocks_is_not_built(load, not_built):
    """It would keep the resolution, so that the dense layer would have four times the values of `fc.weight`."""
    shapes = {name: shape for name, shape in SHAPES["iresnet"].items() if not name.startswith("layer3")}
    with pytest.raises(ValueError, match=r"expected layer3\.0\.conv1\.weight"):
        load({**shapes, "layer4.0.conv1.weight": (16, 4, 3, 3)})


def test_a_vit_without_blocks_is_not_built(load, not_built):
    shapes = {name: shape for name, shape in SHAPES["vit"].items() if not name.startswith("blocks.")}
    with pytest.raises(ValueError, match=r"expected blocks\.0\.norm1\.weight"):
        load(shapes)


@pytest.mark.parametrize(
    "make",
    [
        lambda count: iresnet_shapes(1, (1, count - 3, 1, 1), 1, (1, 1)),
        lambda count: mobilefacenet_shapes(1, (1, 1, count - 3, 1), 1, 1, (1, 1)),
    ],
    ids=["iresnet", "mobilefacenet"],
)
def test_blocks_are_limited(load, not_built, make):
    with pytest.raises(BuiltError):
        load(dict(make(MAX_BLOCKS)))
    with pytest.raises(ValueError, match=r"expected at most 100 blocks. Received: stages of \[1, .* blocks"):
        load(dict(make(MAX_BLOCKS + 1)))


@pytest.mark.parametrize("error", [ValueError, RecursionError])
def test_an_error_of_keras_names_the_file(load, monkeypatch, error):
    def build(*_args, **_kwargs):
        raise error("too deep")

    monkeypatch.setattr(backbones, "IResNet", build)
    expected = f"model.pth cannot be loaded: expected weights of a network .* Received: {error.__name__}: too deep"
    with pytest.raises(ValueError, match=expected):
        load(SHAPES["iresnet"])
