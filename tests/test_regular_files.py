import os

import pytest

from keras_arcface._regular_files import open_regular
from keras_arcface._regular_files import read_regular


def test_a_file_and_a_link_to_it_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "file") == read_regular(str(tmp_path / "link")) == b"content"


def test_other_paths_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, kind in (("fifo", "a FIFO"), ("device", r"a device \(a link to /dev/zero\)"), ("", "a folder")):
        with pytest.raises(ValueError, match=f"{tmp_path / name} must be a regular file. Received: {kind}"):
            open_regular(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing"):
        open_regular(tmp_path / "missing")


def test_a_file_that_becomes_a_fifo_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    status = os.stat(tmp_path / "file")
    (tmp_path / "file").unlink()
    os.mkfifo(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda path: status)
    with pytest.raises(ValueError, match=r"must be a regular file\. Received: a FIFO"):
        open_regular(tmp_path / "file")
