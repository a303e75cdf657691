"""Temporary directory for an export, whose files get their final names only if the export succeeds."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_arcface._files import sync_directory
from keras_arcface._files import sync_file
from keras_arcface._files import write_error
from keras_arcface._locks import FileLock


@contextlib.contextmanager
def unfinished_directory(path: Path) -> Iterator[Path]:
    """Yields a new directory next to `path`, which is removed at exit if it still exists.

    Only one process at a time may export to `path`. Files that a killed process left are removed.

    Raises:
        BlockingIOError: if another process exports to `path`.
        OSError: if a file cannot be written. The message names it, or `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = path.with_name(f".{path.name}.unfinished")
    with FileLock(path.with_name(f".{path.name}.lock")):
        shutil.rmtree(directory, ignore_errors=True)
        try:
            directory.mkdir()
            yield directory
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
            raise write_error(error, path, f"more than {size:,}") from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def move_directory(unfinished: Path, path: Path) -> None:
    """Renames a directory to `path`, which must be an empty directory or not exist, after flushing it to the disk."""
    for folder, _, files in os.walk(unfinished):
        for file in files:
            sync_file(os.path.join(folder, file))
        sync_directory(folder)
    unfinished.rename(path)
    sync_directory(path.parent)


def move_files(unfinished: Path, path: Path) -> None:
    """Moves the files of a directory next to `path`, and the file with the name of `path` last.

    After an error, none of the files is moved.

    Raises:
        FileExistsError: if one of the files exists.
    """
    moved: list[Path] = []
    try:
        for file in sorted(unfinished.iterdir(), key=lambda file: file.name == path.name):
            target = path.with_name(file.name)
            if os.path.lexists(target):
                raise FileExistsError(f"The output file must not exist. Received: {target}")
            sync_file(file)
            file.rename(target)
            moved.append(target)
        sync_directory(path.parent)
    except BaseException:
        for target in moved:
            target.unlink(missing_ok=True)
        raise
