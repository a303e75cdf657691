"""Readers of weights in PyTorch and safetensors files, which execute no code from these files."""

import re
from pathlib import Path

import numpy as np

from keras_arcface._messages import short
from keras_arcface._optional import optional_import
from keras_arcface.pretrained.torch_files import TorchFile
from keras_arcface.pretrained.torch_pickle import Tensor
from keras_arcface.pretrained.torch_pickle import describe
from keras_arcface.pretrained.weights import UnsupportedFileError
from keras_arcface.pretrained.weights import Weights

_EXPECTED = "expected a state dict of names and tensors, as written by torch.save(network.state_dict(), path)"
# Keys of the weights of the embedder in checkpoints: first that of arcface_torch, then a common one.
_WRAPPERS = ("state_dict_backbone", "state_dict")
# Prefixes of DistributedDataParallel, torch.compile, and the modules around the networks of AdaFace, CVLface, EdgeFace.
_PREFIXES = re.compile(r"(?:module\.|_orig_mod\.|model\.|net\.)+")


def read_torch(path: Path) -> Weights:
    """Reads a `.pth` or `.pt` file, without PyTorch.

    Raises:
        UnsupportedFileError: if the file does not contain a state dict, or its tensors exceed the file.
        Exception: of many types if the file is damaged.
    """
    file = TorchFile(path)
    content = file.content
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise UnsupportedFileError(f"{_EXPECTED}. Received: {describe(content)}")
    weights = Weights(path.stat().st_size)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UnsupportedFileError(
                f"{_EXPECTED}. Received: {describe(content)}, where {short(key)} is {describe(value)}"
            )
        try:
            array = file.array(value)
        except UnsupportedFileError as error:
            raise UnsupportedFileError(f"key {short(key)}: {error}") from error
        _add(weights, key, array)
    return weights


def read_safetensors(path: Path) -> Weights:
    """Reads a `.safetensors` file. The library checks that its tensors lie within the file.

    Raises:
        ModuleNotFoundError: if safetensors is not installed.
        Exception: of many types if the file is damaged.
    """
    with optional_import("pretrained", f"Reading {path}"):
        from safetensors.numpy import load_file
    weights = Weights(path.stat().st_size)
    for key, array in load_file(path).items():
        _add(weights, key, array)
    return weights


def _add(weights: Weights, key: str, array: np.ndarray) -> None:
    name = _PREFIXES.sub("", key, count=1) if _PREFIXES.match(key) else key
    if not name.endswith("num_batches_tracked"):  # a counter of BatchNorm that does not affect its outputs
        weights.add(name, array, f"key {short(key)}")
