import errno
import os

import pytest

from keras_arcface import _files


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "file.txt"
    _files.write_atomically(path, "old")
    _files.write_atomically(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.bin"
    _files.write_atomically(path, b"old")
    with pytest.raises(TypeError, match="bytes-like"), _files.replacing(path) as file:
        file.writelines([b"ne", "w"])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_permissions_hold_from_the_first_byte(tmp_path):
    with _files.replacing(tmp_path / "key", mode=0o600) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_temporary_file_of_a_killed_run_is_replaced(tmp_path):
    path = tmp_path / "file"
    _files.temporary_path(path).write_bytes(b"from a run that was killed")
    _files.write_atomically(path, b"new")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"No space left on device, while writing 3 bytes with [\d,]+ bytes free: '.*file.txt'"),
        (errno.EIO, r"Input/output error, while writing: '.*file.txt'"),
    ],
)
def test_an_error_names_the_file_and_the_missing_space(code, message, tmp_path, monkeypatch):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=message):
        _files.write_atomically(tmp_path / "file.txt", "new")
    with (
        pytest.raises(OSError, match=message.replace(" 3 ", " more than 5 ")),
        _files.replacing(tmp_path / "file.txt", buffering=0) as file,
    ):
        file.write(b"fresh")
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), _files.replacing(tmp_path / "file"):
        (tmp_path / "absent").read_bytes()
    assert os.listdir(tmp_path) == []


def test_an_error_without_a_number_keeps_its_text(tmp_path):
    with pytest.raises(OSError, match=r"^cannot write mode RGBA as JPEG$"), _files.replacing(tmp_path / "file"):
        raise OSError("cannot write mode RGBA as JPEG")
    assert os.listdir(tmp_path) == []


def test_a_second_writer_of_a_file_makes_the_first_one_fail(tmp_path):
    path = tmp_path / "file"
    first, second = _files.replacing(path), _files.replacing(path)
    first.__enter__().write(b"first")
    file = second.__enter__()
    file.write(b"sec")
    with pytest.raises(FileExistsError, match=r"Another process is writing this file: '.*file'"):
        first.__exit__(None, None, None)
    assert not path.exists()
    file.write(b"ond")
    second.__exit__(None, None, None)
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]
