import os
import struct

import numpy as np
import pytest
from face_trees import write_feature

from keras_arcface.data import FeatureFiles
from keras_arcface.data import write_feature_files

NAMES = ["1/a@N00/0.jpg", "1/a@N00/1.jpg", "2/b@N00/0.jpg"]


@pytest.fixture
def features(tmp_path):
    rows = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    for name, row in zip(NAMES, rows, strict=True):
        write_feature(tmp_path / f"{name}_r18.bin", row)
    return rows


def test_files_of_another_program_are_read(features, tmp_path):
    found = FeatureFiles(tmp_path, NAMES)
    assert (found.ending, found.dim, found.shape, len(found)) == ("_r18.bin", 5, (3, 5), 3)
    assert found[:].dtype == np.float32
    np.testing.assert_array_equal(found[:], features)
    np.testing.assert_array_equal(found[1:2], features[1:2])
    assert found[3:].shape == (0, 5)


def test_files_are_read_by_another_program(features, tmp_path):
    write_feature_files(tmp_path / "out", NAMES, features.astype(np.float64), "_new.bin")
    for name, row in zip(NAMES, features, strict=True):
        assert (tmp_path / "out" / f"{name}_new.bin").read_bytes() == (tmp_path / f"{name}_r18.bin").read_bytes()
        rows, columns, step, kind, *values = struct.unpack("<4i5f", (tmp_path / "out" / f"{name}_new.bin").read_bytes())
        assert (rows, columns, step, kind) == (5, 1, 4, 5)
        np.testing.assert_array_equal(np.float32(values), row)
    np.testing.assert_array_equal(FeatureFiles(tmp_path / "out", NAMES)[:], features)


def test_a_matrix_of_one_row_is_read_too(features, tmp_path):
    (tmp_path / f"{NAMES[1]}_r18.bin").write_bytes(struct.pack("<4i", 1, 5, 20, 5) + features[1].tobytes())
    np.testing.assert_array_equal(FeatureFiles(tmp_path, NAMES)[:], features)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected at least 16 bytes. Received: 0 bytes"),
        (struct.pack("<4i5f", 5, 1, 4, 5, *range(5))[:-1], r"expected 36 bytes for 5 values. Received: 35 bytes"),
        (struct.pack("<4i6f", 5, 1, 4, 5, *range(6)), r"expected 36 bytes for 5 values. Received: 40 bytes"),
        (struct.pack("<4i5d", 5, 1, 8, 6, *range(5)), r"type 5. Received: 5 rows, 1 columns, 8 bytes per row, type 6"),
        (struct.pack("<4i5f", 5, 1, 20, 5, *range(5)), r"Received: 5 rows, 1 columns, 20 bytes per row, type 5"),
        (struct.pack("<4i4f", 2, 2, 8, 5, *range(4)), r"one row or column.* Received: 2 rows, 2 columns"),
        (struct.pack("<4i", -1, 1, 4, 5), r"Received: -1 rows, 1 columns"),
        (struct.pack("<4i", 0, 1, 4, 5), r"Received: 0 rows, 1 columns"),
        (struct.pack("<4i", 2**31 - 1, 1, 4, 5), r"at most 65536 values.* Received: 2147483647 rows, 1 columns"),
        (struct.pack("<4i4f", 4, 1, 4, 5, *range(4)), r"must have 5 values, as .*0.jpg_r18.bin. Received: 4 values"),
    ],
)
def test_damaged_files_are_named(features, tmp_path, content, message):
    (tmp_path / f"{NAMES[1]}_r18.bin").write_bytes(content)
    found = FeatureFiles(tmp_path, NAMES)
    with pytest.raises(ValueError, match=rf"1/a@N00/1.jpg_r18.bin.*{message}"):
        found[:]


def test_missing_and_ambiguous_files_are_named(features, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"0.jpg_r50.bin must be the feature of an image. Received: no such file"
    ):
        FeatureFiles(tmp_path, NAMES, "_r50.bin")
    write_feature(tmp_path / f"{NAMES[0]}_r50.bin", features[0])
    with pytest.raises(
        ValueError, match=r"ending must be given.* Expected: one of _r18.bin, _r50.bin. Received: ending"
    ):
        FeatureFiles(tmp_path, NAMES)
    found = FeatureFiles(tmp_path, NAMES, "_r50.bin")
    with pytest.raises(FileNotFoundError, match=r"1.jpg_r50.bin must be the feature"):
        found[:2]
    with pytest.raises(
        FileNotFoundError, match=r"2/b@N00 must contain a file 9.jpg<ending>.bin. Received: no such file"
    ):
        FeatureFiles(tmp_path, ["2/b@N00/9.jpg"])
    with pytest.raises(FileNotFoundError, match=r"3 must be a folder of features. Received: no such folder"):
        FeatureFiles(tmp_path, ["3/9.jpg"])
    with pytest.raises(ValueError, match=r"names must be names of one or more images. Received: names=\[\]"):
        FeatureFiles(tmp_path, [])


def test_links_and_paths_that_leave_the_folder_are_refused(features, tmp_path):
    inside = tmp_path / "inside"
    write_feature(inside / "a.jpg_r18.bin", features[0])
    with pytest.raises(ValueError, match=r"must be inside of the folder .*inside. Received: a path that leaves it"):
        FeatureFiles(inside, ["a.jpg", "../1/a@N00/0.jpg"])[1:]
    (inside / "b").symlink_to(tmp_path / "1")
    with pytest.raises(ValueError, match=r"inside/b.* Received: a link to"):
        FeatureFiles(inside, ["a.jpg", "b/a@N00/0.jpg"])[1:]
    np.testing.assert_array_equal(FeatureFiles(inside, ["b/a@N00/0.jpg"], follow_links=True)[:], features[:1])
    os.mkfifo(inside / "c.jpg_r18.bin")
    with pytest.raises(ValueError, match=r"c.jpg_r18.bin must be a regular file. Received: a FIFO"):
        FeatureFiles(inside, ["c.jpg"])
    for name in ("../d.jpg", "b/d.jpg"):
        with pytest.raises(ValueError, match=r"must be inside of the folder"):
            write_feature_files(inside, [name], features[:1], "_r18.bin")


@pytest.mark.parametrize("rows", [np.zeros((2, 4)), np.zeros(3), np.zeros((3, 0)), [["a"]] * 3, np.zeros((3, 65537))])
def test_features_of_another_shape_are_not_written(rows, tmp_path):
    with pytest.raises(ValueError, match=r"features must be numbers of shape \(3, dim\), one row per name"):
        write_feature_files(tmp_path, NAMES, rows, "_r18.bin")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_disk_names_the_file(tmp_path):
    (tmp_path / "0.jpg_r18.bin").mkdir()
    with pytest.raises(OSError, match=r"Is a directory, while writing: .*0.jpg_r18.bin"):
        write_feature_files(tmp_path, ["0.jpg"], np.ones((1, 2)), "_r18.bin")
