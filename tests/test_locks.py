import errno
import fcntl
import gc
import os
import subprocess
import sys
import threading

import pytest

from keras_arcface._locks import FileLock

HOLD = """
import sys
from keras_arcface._locks import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def holder(path):
    """A process that holds the lock until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        yield process
        process.kill()


def test_a_second_owner_is_told_who_holds_the_lock(path, holder):
    expected = rf"must not be in use by another process. Received: .lock, which process {holder.pid} on .* since 20.*-c"
    with pytest.raises(BlockingIOError, match=expected):
        FileLock(path).acquire()
    holder.communicate()
    assert not path.exists()  # also without `release`
    with FileLock(path) as lock:
        assert lock.is_held
    assert not lock.is_held
    assert not path.exists()


def test_a_killed_process_releases_the_lock(path, holder):
    holder.kill()
    holder.wait()
    assert path.exists()
    with FileLock(path):
        assert f"process {os.getpid()} " in path.read_text()
    assert not path.exists()


def test_the_timeout_is_the_time_to_wait_for_another_holder(path, holder):
    releases = threading.Timer(0.1, holder.stdin.close)
    releases.start()
    with FileLock(path, timeout=60.0):
        pass
    releases.join()


def test_two_objects_of_one_process_exclude_each_other(path):
    with FileLock(path), pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
        FileLock(path).acquire()
    FileLock(path).acquire()
    gc.collect()  # an object that is garbage collected releases its lock
    assert not path.exists()


def test_the_file_remains_while_a_worker_process_shares_the_lock(path):
    lock = FileLock(path)
    with lock:
        lock.share()
        worker = FileLock(path)
        worker.join()
        with pytest.raises(BlockingIOError):
            FileLock(path).acquire()
    with pytest.raises(BlockingIOError):
        FileLock(path).acquire()
    os.close(worker._descriptor)
    with FileLock(path):
        pass
    assert not path.exists()


def test_a_lock_file_that_is_removed_in_between_is_not_held(path, monkeypatch):
    flock, descriptors = fcntl.flock, []

    def be_slower(descriptor, operation):
        if not descriptors:
            path.unlink()
        descriptors.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", be_slower)
    with FileLock(path, timeout=60.0):
        assert path.exists()


def test_a_file_system_without_locks_is_an_error(path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"must support locks, .* Received: No locks available: '.*lock'"):
        FileLock(path).acquire()
    assert not path.exists()


def test_the_file_of_a_holder_remains_if_locking_is_not_supported_here(path, holder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="must support locks"):
        FileLock(path).acquire()
    assert f"process {holder.pid} " in path.read_text()


def test_a_full_disk_does_not_prevent_locking(path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    with FileLock(path), pytest.raises(BlockingIOError, match="which another process has locked"):
        FileLock(path).acquire()


def test_a_message_quotes_only_the_beginning_of_a_lock_file(path):
    with FileLock(path):
        path.write_bytes(b"\x1b[2J\xff\n" * 1000)
        with pytest.raises(BlockingIOError) as caught:
            FileLock(path).acquire()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + 300


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_lock_file_that_is_not_a_regular_file_is_refused(kind, path, tmp_path):
    other = tmp_path / "other"
    other.write_text("content")
    {"link": lambda: path.symlink_to(other), "fifo": lambda: os.mkfifo(path), "directory": path.mkdir}[kind]()
    with pytest.raises(OSError, match=r"A lock file must be a regular file.*\.lock"):
        FileLock(path).acquire()
    assert other.read_text() == "content"


def test_a_file_of_another_user_can_be_locked(path, monkeypatch):
    path.write_text("process 1 on other")
    opened = os.open

    def open_as_other_user(name, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return opened(name, flags, *mode)

    monkeypatch.setattr(os, "open", open_as_other_user)
    with FileLock(path), pytest.raises(BlockingIOError, match="must not be in use by another process"):
        FileLock(path).acquire()
