"""Reader of MAT-files, compared with SciPy's on its own files and on those of MATLAB in its tests."""

import importlib.util
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from keras_arcface.data.mat_file import read_mat

FOLDER = Path(importlib.util.find_spec("scipy.io.matlab").origin).parent / "tests" / "data"
# SciPy returns functions as arrays without a value. HDF5 is another format.
_OTHER = ("testfunc", "testhdf5")
FILES = [path for path in sorted(FOLDER.glob("test*_[678].*.mat")) if not path.name.startswith(_OTHER)]
FIELDS = ("one", "two", "stringfield", "doublefield", "complexfield")


def plain(value):
    """Converts a value of SciPy to that of `read_mat`."""
    if isinstance(value, np.ndarray) and value.dtype.names:
        if type(value).__name__ == "MatlabObject":
            return None
        return {name: [plain(item) for item in value[name].ravel("F")] for name in value.dtype.names if name in FIELDS}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(item) for item in value.ravel("F")]
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return str(value[0]) if len(value) == 1 else "" if not value.size else None
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        return value.ravel("F").tolist()
    return None


def listed(value):
    if isinstance(value, dict):
        return {name: listed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [listed(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def expected(path):
    return {name: plain(value) for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}


@pytest.mark.skipif(not FILES, reason="this SciPy was installed without its test data")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reads_files_of_matlab(path):
    found = {name: value for name, value in listed(read_mat(path, FIELDS)).items() if name}
    assert found == expected(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_files_of_scipy(compressed, tmp_path):
    structs = np.zeros((1, 300), [("one", object), ("other", object), ("two", object)])
    for row in range(300):
        structs[0, row] = (f"folder/{row:06d}.jpg", np.arange(row % 5), np.uint8(row % 200))
    cells = np.empty((1, 4), object)
    cells[0] = ["AM General", "Citroën 2012", "", "日本"]
    content = {"structs": structs, "cells": cells, "numbers": np.array([[1.5, 2.0], [3.0, 4.0]]), "text": "abc"}
    scipy.io.savemat(tmp_path / "file.mat", content, do_compression=compressed)
    found = listed(read_mat(tmp_path / "file.mat", FIELDS))
    assert found == expected(tmp_path / "file.mat")
    assert found["structs"]["one"][299] == "folder/000299.jpg"
    assert found["structs"]["two"][3] == [3]
    assert found["cells"] == ["AM General", "Citroën 2012", "", "日本"]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "file.mat"
    scipy.io.savemat(path, {"cells": np.array([["a", "bcdefghijk"]], object), "numbers": np.arange(3.0)})
    whole = path.read_bytes()
    values = read_mat(path, ())
    for length in range(128, len(whole)):
        path.write_bytes(whole[:length])
        try:
            assert len(read_mat(path, ())) < 2
        except ValueError as error:
            assert str(error).startswith(f"{path} must be an undamaged MAT-file. Received: ")  # noqa: PT017
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(128, len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_mat(path, ())
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
    assert values["numbers"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", ["a", 1.0])
@pytest.mark.parametrize("dimensions", [0, 1])
def test_an_array_of_fewer_than_two_dimensions_is_damaged(value, dimensions, tmp_path):
    path = tmp_path / "file.mat"
    scipy.io.savemat(path, {"a": value})
    header, array = path.read_bytes()[:128], path.read_bytes()[136:]
    shape = np.array([5, 8, 1, 1], "<i4").tobytes()
    assert shape in array
    array = array.replace(shape, np.array([5, 4 * dimensions, *[1] * 2 * dimensions], "<i4").tobytes(), 1)
    path.write_bytes(header + np.array([14, len(array)], "<i4").tobytes() + array)
    message = f"file.mat must be an undamaged MAT-file. Received: an array of {dimensions} dimensions"
    with pytest.raises(ValueError, match=message):
        read_mat(path, ())


def test_other_formats_are_named(tmp_path):
    path = tmp_path / "file.mat"
    for content in (b"", b"MATLAB 5.0" * 100, b"\x89HDF\r\n\x1a\n" * 100):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"file.mat must be a MAT-file of MATLAB 5 to 7.2. Received: {len(content)}"
        ):
            read_mat(path, ())


def test_content_is_limited_before_memory_is_allocated(tmp_path):
    path = tmp_path / "file.mat"
    scipy.io.savemat(path, {"a": 1.0})
    header = path.read_bytes()[:128]
    bomb = zlib.compress(b"\0" * (65 * 2**20), 9)
    path.write_bytes(header + np.array([15, len(bomb)], "<u4").tobytes() + bomb)
    assert path.stat().st_size < 2**17
    with pytest.raises(ValueError, match=r"file.mat must be an undamaged MAT-file. Received: more than 67108864 bytes"):
        read_mat(path, ())
    with open(path, "wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(ValueError, match=r"file.mat must have at most 67108864 bytes. Received: 67108865 bytes"):
        read_mat(path, ())


def test_deep_nesting_is_refused(tmp_path):
    value = "a"
    for _ in range(12):
        cell = np.empty((1, 1), object)
        cell[0, 0] = value
        value = cell
    scipy.io.savemat(tmp_path / "file.mat", {"nested": value})
    with pytest.raises(ValueError, match=r"Received: more than 8 arrays in others"):
        read_mat(tmp_path / "file.mat", ())
