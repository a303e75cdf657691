import errno
import fcntl
import os

import pytest

from keras_arcface.serving.deploy import staging


def make_directory(path):
    (path / "inner" / "empty").mkdir(parents=True)
    (path / "inner" / "file").write_bytes(bytes(range(256)) * 1000)
    (path / "file").write_bytes(b"")
    return path


def names(directory):
    return sorted(os.listdir(directory))


def test_the_directory_is_removed_at_exit(tmp_path):
    with staging.temporary_path(tmp_path) as path:
        assert path.name.startswith(".tmp-")
        make_directory(path)
    assert names(tmp_path) == []

    def interrupted():
        with staging.temporary_path(tmp_path) as path:
            make_directory(path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
    with staging.temporary_path(tmp_path) as path:
        make_directory(path).rename(tmp_path / "1")
    assert names(tmp_path) == ["1"]


def test_only_leftovers_of_ended_processes_are_removed(tmp_path):
    make_directory(tmp_path / ".tmp-dead")
    (tmp_path / ".tmp-dead.lock").write_text("")
    make_directory(tmp_path / ".tmp-retired")  # a version that is being removed has no lock
    (tmp_path / ".tmp-finished.lock").write_text("")
    (tmp_path / ".keep").mkdir()
    with staging.temporary_path(tmp_path) as path:
        make_directory(path)
        staging.remove_leftovers(tmp_path)
        assert names(tmp_path) == [".keep", path.name, f"{path.name}.lock"]
        assert names(path) == ["file", "inner"]
    assert names(tmp_path) == [".keep"]


def test_a_leftover_that_another_process_removes_is_skipped(tmp_path):
    make_directory(tmp_path / ".tmp-dead")
    with open(tmp_path / ".tmp-dead.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        staging.remove_leftovers(tmp_path)
        assert names(tmp_path) == [".tmp-dead", ".tmp-dead.lock"]
    staging.remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_the_lock_is_acquired_after_another_publisher_took_it_for_a_leftover(tmp_path, monkeypatch):
    flock, seen = fcntl.flock, []

    def be_quicker(lock, operation):
        if not seen:
            seen.append(names(tmp_path))
            staging.remove_leftovers(tmp_path)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", be_quicker)
    with staging.temporary_path(tmp_path) as path:
        path.mkdir()
        staging.remove_leftovers(tmp_path)
        assert names(tmp_path) == [path.name, f"{path.name}.lock"]
    assert seen == [[f"{path.name}.lock"]]
    assert names(tmp_path) == []


def test_leftovers_that_are_files_or_links_are_removed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / ".tmp-link").symlink_to("model")
    (tmp_path / ".tmp-dangling").symlink_to("nothing")
    (tmp_path / ".tmp-file").write_text("")
    staging.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["model"]


def test_a_removed_version_frees_a_full_disk(tmp_path, monkeypatch):
    make_directory(tmp_path / ".tmp-retired")

    def refuse(path, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(staging.FileLock, "acquire", refuse)  # a full disk has no space for a lock file
    staging.remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_nothing_remains_if_files_cannot_be_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks available"), staging.temporary_path(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_copy_is_complete_and_flushed(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(file):
        synced.append(os.readlink(f"/proc/self/fd/{file}") if os.path.exists("/proc/self/fd") else None)
        fsync(file)

    monkeypatch.setattr(os, "fsync", record)
    source, target = make_directory(tmp_path / "source"), tmp_path / "target"
    staging.copy_tree(source, target)
    assert names(target) == names(source)
    assert (target / "inner" / "file").read_bytes() == (source / "inner" / "file").read_bytes()
    assert (target / "inner" / "empty").is_dir()
    parts = ("", "/file", "/inner", "/inner/empty", "/inner/file")
    assert len(synced) == len(parts)
    if synced[0] is not None:
        assert sorted(synced) == [f"{target}{part}" for part in parts]
        assert synced.index(f"{target}/inner/file") < synced.index(f"{target}/inner") < synced.index(str(target))
