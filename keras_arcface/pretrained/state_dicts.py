"""Readers of weights in PyTorch and safetensors files, which execute no code from these files."""

import re

import numpy as np

from keras_arcface._messages import short
from keras_arcface._optional import optional_import
from keras_arcface.pretrained.weights import UnsupportedFileError
from keras_arcface.pretrained.weights import Weight
from keras_arcface.pretrained.weights import Weights

# Keys of the weights of the embedder in checkpoints: first that of arcface_torch, then a common one.
_WRAPPERS = ("state_dict_backbone", "state_dict")
# Prefixes that DistributedDataParallel and torch.compile add to each name.
_PREFIXES = ("module.", "_orig_mod.")


def read_torch(path) -> Weights:
    """Reads a `.pth` or `.pt` file with the `weights_only` loader of PyTorch, which executes no code.

    Raises:
        ImportError: if PyTorch is not installed or too old to be safe.
        UnsupportedFileError: if the file does not contain a state dict.
    """
    with optional_import("pretrained", f"Reading {path}"):
        import torch
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
        raise ImportError(
            f"Reading {path} requires PyTorch 2.6 or newer: in older versions a file can execute code even with "
            f"weights_only=True (CVE-2025-32434). Received: PyTorch {torch.__version__}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged or malicious files raise exceptions of many types
        raise UnsupportedFileError(
            "expected a state dict, as written by torch.save(network.state_dict(), path). "
            f"Received: a file that the weights_only loader of PyTorch rejects: {_first_line(error)}"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        is_dict = isinstance(content, dict)
        received = f"a dict of {sorted(map(str, content))[:5]}" if is_dict else type(content).__name__
        raise UnsupportedFileError(f"expected a state dict of names and tensors. Received: {received}")
    # PyTorch converts to float32, as NumPy has no bfloat16.
    return _to_weights({name: tensor.detach().to(torch.float32).numpy() for name, tensor in content.items()})


def read_safetensors(path) -> Weights:
    """Reads a `.safetensors` file.

    Raises:
        ModuleNotFoundError: if safetensors is not installed.
        UnsupportedFileError: if the file is damaged.
    """
    with optional_import("pretrained", f"Reading {path}"):
        from safetensors.numpy import load_file
    try:
        content = load_file(path)
    except Exception as error:
        raise UnsupportedFileError(f"expected a safetensors file. Received: {_first_line(error)}") from error
    return _to_weights({name: array.astype(np.float32) for name, array in content.items()})


def _to_weights(arrays: dict[str, np.ndarray]) -> Weights:
    weights = {}
    for key, array in arrays.items():
        name = str(key)
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        if not name.endswith("num_batches_tracked"):  # a counter of BatchNorm that does not affect its outputs
            weights[name] = Weight(array, f"key {short(key)}")
    return Weights(weights)


def _first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
