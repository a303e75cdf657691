import errno
import os

import pytest

from keras_arcface._unfinished import move_directory
from keras_arcface._unfinished import move_files
from keras_arcface._unfinished import unfinished_directory


def names(directory):
    return sorted(os.listdir(directory))


def test_files_of_a_killed_process_are_removed_and_a_second_process_is_refused(tmp_path):
    path = tmp_path / "new" / "model.onnx"
    (tmp_path / "new" / ".model.onnx.unfinished").mkdir(parents=True)
    (tmp_path / "new" / ".model.onnx.unfinished" / "old").write_text("")
    with unfinished_directory(path) as directory:
        assert names(directory) == []
        with (
            pytest.raises(BlockingIOError, match=r"new must not be in use by another process. Received: .*\.lock"),
            unfinished_directory(path),
        ):
            pass
        (directory / "model.onnx").write_text("a model")
        move_files(directory, path)
    assert names(tmp_path / "new") == ["model.onnx"]


def test_a_failure_removes_the_files_and_names_the_export(tmp_path):
    def fail():
        with unfinished_directory(tmp_path / "exported") as directory:
            (directory / "file").write_text("abc")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device, while writing more than 3 bytes .*/exported'$"):
        fail()
    assert names(tmp_path) == []


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "model.xml"

    def export():
        with unfinished_directory(path) as directory:
            for name in ("model.xml", "model.bin"):
                (directory / name).write_text("new")
            path.write_text("other")
            move_files(directory, path)

    with pytest.raises(FileExistsError, match=r"The output file must not exist. Received: .*model.xml"):
        export()
    assert names(tmp_path) == ["model.xml"]
    assert path.read_text() == "other"


def test_a_directory_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "exported", [], os.fsync

    def record(file):
        synced.append((os.fstat(file).st_ino, path.exists()))
        fsync(file)

    with unfinished_directory(path) as directory:
        (directory / "variables").mkdir()
        (directory / "variables" / "data").write_text("")
        monkeypatch.setattr(os, "fsync", record)
        move_directory(directory, path)
    inodes = [os.stat(name).st_ino for name in (path / "variables" / "data", path / "variables", path, tmp_path)]
    assert dict(synced) == dict(zip(inodes, (False, False, False, True), strict=True))
