"""Reads a damaged file of weights up to the point where its network is built."""

import math
import tempfile
from pathlib import Path

from keras_arcface import backbones
from keras_arcface.pretrained import load_insightface

_FOLDER = Path(tempfile.mkdtemp())


class NetworkSize(Exception):
    """Error in place of the network, which would take long to build."""


def read(data: bytes, suffix: str) -> None:
    """Reads a file, and checks that the network is not larger than it, and that errors name the file."""

    def refuse_iresnet(blocks, width, image_shape, **_):
        side = math.prod(-(-side // 16) for side in image_shape[:2])
        kernels = [9 * (2 * count - 1) * (width * 2**stage) ** 2 for stage, count in enumerate(blocks)]
        check(sum(kernels) + 8 * width * side)

    def refuse_mobilefacenet(width, image_shape, *, blocks, **_):
        side = math.prod(-(-side // 16) for side in image_shape[:2])
        check(512 * side + sum(blocks) * width * 128)

    def check(values):
        assert values <= 8 * len(data), f"a network of {values} values from {len(data)} bytes"
        raise NetworkSize

    path = _FOLDER / f"model{suffix}"
    path.write_bytes(data)
    original = backbones.IResNet, backbones.MobileFaceNet
    backbones.IResNet, backbones.MobileFaceNet = refuse_iresnet, refuse_mobilefacenet
    refused = None
    try:
        load_insightface(path)
    except (ValueError, NetworkSize) as error:
        refused = error
    finally:
        backbones.IResNet, backbones.MobileFaceNet = original
    assert refused is not None, "the network is built"
    if not isinstance(refused, NetworkSize):
        assert str(refused).startswith(f"{path} cannot be loaded: "), str(refused)
        assert len(str(refused)) < 2000, str(refused)
