"""Tensors that are read without PyTorch equal those of `torch.load`, and no file asks for more than its size."""

import io
import pickletools
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from fuzzing.targets import weights_pth

from keras_arcface.pretrained import load_insightface
from keras_arcface.pretrained import torch_pickle
from keras_arcface.pretrained.state_dicts import read_torch

try:
    import torch
except ModuleNotFoundError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch writes the file")

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def make_states():
    numbers = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "dtypes": {name: (numbers - 7).to(getattr(torch, name)) for name in DTYPES if name != "uint8"}
        | {"uint8": numbers.to(torch.uint8)},
        "views": {
            "transposed": numbers.transpose(0, 2),
            "shared": numbers[1],
            "every other": numbers[:, ::2],
            "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "scalar": torch.tensor(3.0),
        },
        "parameters": torch.nn.BatchNorm1d(3).state_dict(keep_vars=True),
    }


def to_bytes(content, legacy=False):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@needs_torch
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["dtypes", "views", "parameters"])
def test_tensors_equal_those_of_pytorch(tmp_path, name, legacy):
    path = tmp_path / "model.pth"
    path.write_bytes(to_bytes(make_states()[name], legacy))
    weights = read_torch(path)
    expected = {key: tensor for key, tensor in torch.load(path).items() if not key.endswith("num_batches_tracked")}
    assert set(weights) == set(expected)
    for key, tensor in expected.items():
        array = weights.pop(key, tuple(tensor.shape))
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.detach().float().numpy())


@needs_torch
def test_other_objects_of_a_checkpoint_are_not_read(tmp_path):
    """An optimizer or a scheduler may contain any class."""
    others = {
        "scheduler": zipfile.ZipFile,
        "numbers": {1: (2.5, None, True)},
        "set": {1, 2},
        "device": torch.device("cpu"),
    }
    path = tmp_path / "model.pth"
    path.write_bytes(to_bytes({**others, "state_dict": {"a": torch.ones(2)}}))
    np.testing.assert_array_equal(read_torch(path).pop("a", (2,)), [1, 1])


def with_numel(numel):
    """Returns a file of the format before PyTorch 1.6 whose storage of 4 values is said to have `numel`."""
    content = to_bytes({"a": torch.zeros(4)}, legacy=True)
    start = content.index(b"K\x04N", content.index(b"cpu"))
    return content[:start] + b"J" + struct.pack("<i", numel) + content[start + 2 :]


HOSTILE = {
    "strides of 0": (
        lambda: to_bytes({"a": torch.zeros(1).expand(10**10)}),
        r"key 'a': expected a tensor within its 1 values. Received: shape \(10000000000,\), strides \(0,\)",
    ),
    "shared": (
        lambda: to_bytes(dict.fromkeys(map(str, range(5000)), torch.zeros(1000))),
        r"expected arrays of at most 8 times the size of the file, \d+ bytes. Received: more up to key '\d+'",
    ),
    "deflated": (
        lambda: weights_pth._zip(b"\x80\x02}." + bytes(10**6), zipfile.ZIP_DEFLATED),
        r"expected a zip archive without compression. Received: '.*/data.pkl' with \d+ bytes in \d+",
    ),
    "bytearray": (
        lambda: weights_pth._zip(b"\x80\x02}X\x01\0\0\0ac__builtin__\nbytearray\n(\x8a\x05\0\0\0\0\x01tRs."),
        r"where 'a' is __builtin__.bytearray, which is not read",
    ),
    "sparse": (
        lambda: to_bytes({"a": torch.sparse_coo_tensor([[0]], [1.0], (10**12,), check_invariants=True)}),
        r"where 'a' is torch._utils._rebuild_sparse_tensor, which is not read",
    ),
    "complex": (lambda: to_bytes({"a": torch.zeros(2, dtype=torch.complex64)}), "key 'a': expected values of a type"),
    "legacy size": (
        lambda: with_numel(2**31 - 1),
        r"key 'a': expected 2147483647 values of 4 bytes. .* 16 bytes",
    ),
    "width 0": (
        lambda: weights_pth._zip(weights_pth._pickle({"a": (0, 3)})),
        r"arrays that are not empty. Received: key 'a' .*\(0, 3\)",
    ),
    "infinite": (lambda: to_bytes({"a": torch.tensor([1e300], dtype=torch.float64)}), "finite numbers in float32.*'a'"),
    "a pickle": (lambda: b"\x80\x02K\x01.", "as written by torch.save. Received: a pickle of int"),
    "empty": (lambda: b"", "expected a state dict, as written .* Received: a file that fails with"),
    "cut": (lambda: weights_pth._zip(b"\x80\x02}.")[:-30], "expected a state dict, as written .*fails with BadZipFile"),
}


WRITTEN_BY_TORCH = ("strides of 0", "shared", "sparse", "complex", "legacy size", "infinite")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_torch if name in WRITTEN_BY_TORCH else ()) for name in HOSTILE]
)
def test_no_file_asks_for_more_than_its_size(tmp_path, name):
    make, message = HOSTILE[name]
    path = tmp_path / "hostile.pth"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"hostile.pth cannot be loaded: .*{message}"):
            load_insightface(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 10 * path.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("before", "after"), [(b"}", b"K\x01s."), (b"}(", b"K\x01u.")], ids=["SETITEM", "SETITEMS"])
def test_keys_of_nested_tuples_are_not_hashed(before, after):
    """The hash of a tuple visits its elements, here 2^100 empty tuples."""
    key = b")" + 100 * b"q\x00h\x00\x86"  # duplicates the top of the stack, and builds a tuple of both
    assert torch_pickle.read_pickle(io.BytesIO(b"\x80\x02" + before + key + after), lambda _: None) == {}


def test_operations_of_a_pickle_are_limited(monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAX_OPERATIONS", 5)
    torch_pickle.read_pickle(io.BytesIO(b"\x80\x02}}}."), lambda _: None)
    with pytest.raises(ValueError, match=r"expected a pickle of at most 5 operations. Received: more .* at byte 6"):
        torch_pickle.read_pickle(io.BytesIO(b"\x80\x02}}}}."), lambda _: None)
    with pytest.raises(ValueError, match=r"that torch.save writes. Received: STACK_GLOBAL at byte 3"):
        torch_pickle.read_pickle(io.BytesIO(pickletools.optimize(b"\x80\x04N\x93.")), lambda _: None)
