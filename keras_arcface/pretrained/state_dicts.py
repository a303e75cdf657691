"""Files of named arrays, PyTorch's and safetensors -> `Weights`. Nothing in them is run."""

import re

import numpy as np

from keras_arcface.pretrained.weights import UnfitError
from keras_arcface.pretrained.weights import Weight
from keras_arcface.pretrained.weights import Weights

# In what the weights of the embedder lie, if not alone: arcface_torch's checkpoints, and a widespread habit.
_WRAPPERS = ("state_dict_backbone", "state_dict")
# What DistributedDataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")


def read_torch(path) -> Weights:
    """Reads a `.pth` or `.pt` file by PyTorch's loader of weights alone, which refuses every other object."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} is read with PyTorch: pip install torch (its CPU build will do)") from error
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
        raise ImportError(
            f"{path} is read with PyTorch 2.6 or newer: older ones can be made to run code by a file even under "
            f"weights_only=True (CVE-2025-32434). Received: PyTorch {torch.__version__}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file makes it raise whatever it likes
        raise UnfitError(
            "expected a state dict, as torch.save(network.state_dict(), path) writes it. "
            f"Received: what PyTorch's weights_only loader refuses: {_first_line(error)}"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        what = f"a dict of {sorted(map(str, content))[:5]}" if isinstance(content, dict) else type(content).__name__
        raise UnfitError(f"expected a state dict: names and tensors. Received: {what}")
    # NumPy has no bfloat16: everything becomes float32 on PyTorch's side.
    return _named({name: tensor.detach().to(torch.float32).numpy() for name, tensor in content.items()})


def read_safetensors(path) -> Weights:
    """Reads a `.safetensors` file."""
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} is read with safetensors: pip install safetensors") from error
    try:
        content = load_file(path)
    except Exception as error:
        raise UnfitError(f"expected a safetensors file. Received: {_first_line(error)}") from error
    return _named({name: array.astype(np.float32) for name, array in content.items()})


def _named(arrays: dict[str, np.ndarray]) -> Weights:
    weights = {}
    for key, array in arrays.items():
        name = str(key)
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        if not name.endswith("num_batches_tracked"):  # says how BatchNorm was trained, not what it computes
            weights[name] = Weight(array, f"key {key!r}")
    return Weights(weights)


def _first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
