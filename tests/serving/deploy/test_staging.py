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
    with staging.Staging(tmp_path) as path:
        assert path.name.startswith(".tmp-")
        make_directory(path)
    assert names(tmp_path) == []

    def interrupted():
        with staging.Staging(tmp_path) as path:
            make_directory(path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
    with staging.Staging(tmp_path) as path:
        make_directory(path).rename(tmp_path / "1")
    assert names(tmp_path) == ["1"]


def test_only_leftovers_of_ended_processes_are_removed(tmp_path):
    make_directory(tmp_path / ".tmp-dead")
    (tmp_path / ".tmp-dead.lock").write_text("")
    make_directory(tmp_path / ".tmp-retired")  # a version that is being removed has no lock
    (tmp_path / ".tmp-finished.lock").write_text("")
    (tmp_path / ".keep").mkdir()
    with staging.Staging(tmp_path) as path:
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


def test_a_lock_that_was_removed_as_a_leftover_is_created_again(tmp_path, monkeypatch):
    acquire, seen = staging._acquire, []

    def be_quicker(lock, path):
        if not seen:
            seen.append(path.name)
            staging.remove_leftovers(tmp_path)
        return acquire(lock, path)

    monkeypatch.setattr(staging, "_acquire", be_quicker)
    with staging.Staging(tmp_path) as path:
        path.mkdir()
        staging.remove_leftovers(tmp_path)
        assert names(tmp_path) == [path.name, f"{path.name}.lock"]
        assert f"{path.name}.lock" != seen[0]
    assert names(tmp_path) == []


def test_nothing_remains_if_files_cannot_be_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("No locks available")

    monkeypatch.setattr(staging.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks available"), staging.Staging(tmp_path):
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
