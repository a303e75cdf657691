"""Publication of a SavedModel as the next numbered version in a base path of TensorFlow Serving.

The server lists the base path every second and loads each directory with an integer name, even an incomplete one.
Therefore a complete directory is renamed to an integer in one step, and an old version is renamed back in one step
before its files are removed. The number and the old versions are chosen under the lock of the base path, after the
model is copied and checked.
"""

import logging
import operator
import os
from collections.abc import Iterable
from pathlib import Path

from keras_arcface._arguments import check_integer
from keras_arcface._files import FULL
from keras_arcface._files import sync_directory
from keras_arcface._files import write_error
from keras_arcface.serving.deploy import retention
from keras_arcface.serving.deploy import staging
from keras_arcface.serving.deploy import versions
from keras_arcface.serving.deploy.base_path_lock import base_path_lock

_log = logging.getLogger(__name__)


def publish(
    saved_model: str | os.PathLike,
    base_path: str | os.PathLike,
    version: int | None = None,
    keep: int | None = None,
    protect: Iterable[int] = (),
    check: bool = True,
    dry_run: bool = False,
) -> Path:
    """Copies a SavedModel into a base path as a new version, which appears atomically.

    A server that polls the base path loads the version within seconds. `rollback` withdraws it.

    The copy is written to `.tmp-<unique>` on the same file system, flushed to the disk, checked and renamed. Several
    publishers may run at the same time, also on several hosts. Each of them gets a different version number, and waits
    for the others only while they rename versions. If a publisher is killed, the next one removes its files. The file
    system must support locks and rename directories atomically, as local file systems and NFS do, and object stores do
    not. Progress is logged.

    Args:
        saved_model: directory of the SavedModel, which contains `saved_model.pb`.
        base_path: directory of the model's versions, for example `models/faces`. It is created if it does not exist.
        version: number of the new version, at least 1 and larger than every number that was ever used, including those
            of withdrawn and removed versions. None: the smallest such number.
        keep: number of newest versions to keep, including the new one. Only versions with saved_model.pb count. Older
            versions and older withdrawn ones are removed. None: no version is removed. Keep more versions than the
            servers serve, because a server may still load an older one.
        protect: numbers of versions that are not removed, for example versions with labels.
        check: whether to verify the copy with `check_saved_model` before it is renamed.
        dry_run: whether to only check `saved_model` and log the planned changes.

    Returns:
        Directory of the new version.

    Raises:
        BlockingIOError: if another process holds the lock of the base path for a minute.
        FileExistsError: if `version` is not larger than every number that was used.
        FileNotFoundError: if `saved_model` does not exist.
        NotADirectoryError: if `base_path` is a file.
        OSError: if the model cannot be copied, for example because the disk is full or a permission is missing. The
            message names both paths. The incomplete copy is removed. If the error occurs after the version appeared,
            the message says that it is published.
        ValueError: if `saved_model` is not a SavedModel, fails the check, is inside `base_path` or contains it; if
            `base_path` is a SavedModel or its name is an integer; if `protect` contains a version that does not exist;
            or if another argument is out of range.

    Examples:
        >>> serving.versions("models/faces")
        [1, 2]
        >>> serving.publish("exported", "models/faces", keep=2)
        PosixPath('models/faces/3')
        >>> serving.versions("models/faces")
        [2, 3]
    """
    source, base = Path(saved_model), Path(base_path)
    _check_paths(source, base)
    version, keep, protect = _check_numbers(base, version, keep, protect)
    if dry_run:
        return _log_plan(source, base, version, keep, protect, check)
    published = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        staging.remove_leftovers(base)
        with staging.temporary_path(base) as directory:
            staging.copy_tree(source, directory)
            if not (directory / "saved_model.pb").is_file():
                raise ValueError(f"saved_model must not change while it is published. Received: {source}")
            if check:
                _check(directory, source)
            with base_path_lock(base):
                target = base / str(_choose_number(base, version))
                os.rename(directory, target)
                published = target
                _log.info("published %s as %s", source, published)
                sync_directory(base)  # before old versions are removed
                if keep is not None:
                    retention.retire(base, keep, protect, int(published.name))
        if keep is not None:
            sync_directory(base)  # before files of old versions are removed
            staging.remove_leftovers(base)
    except (BlockingIOError, FileExistsError):
        raise
    except OSError as error:
        raise _publication_error(error, source, base, published) from error
    return published


def _log_plan(source: Path, base: Path, version: int | None, keep: int | None, protect, check: bool) -> Path:
    if check:
        _check(source, source)
    number = _choose_number(base, version) if base.exists() else version or 1
    _log.info("would publish %s as %s", source, base / str(number))
    if keep is not None and base.exists():
        for name in retention.expired(base, keep, protect, number):
            _log.info("would remove %s", base / name)
    return base / str(number)


def _check_paths(source: Path, base: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(f"saved_model must be an existing directory. Received: saved_model={str(source)!r}")
    if not (source / "saved_model.pb").is_file():
        received = sorted(os.listdir(source))[:5] or "an empty directory" if source.is_dir() else "a file"
        raise ValueError(f"saved_model must be a directory with saved_model.pb. Received: {source}, {received}")
    versions.check_base_path(base)
    inner, outer = source.resolve(), base.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ValueError(
            "saved_model and base_path must not contain each other. Export to a different directory. "
            f"Received: saved_model={str(source)!r}, base_path={str(base)!r}"
        )


def _check_numbers(
    base: Path, version: int | None, keep: int | None, protect: Iterable[int]
) -> tuple[int | None, int | None, list[int]]:
    protect = sorted({operator.index(number) for number in protect})
    if version is not None:
        check_integer("version", version, 1, versions.MAX_VERSION)
    if base.exists():
        _choose_number(base, version)  # raises an error before the model is copied
    if keep is not None:
        check_integer("keep", keep, 1)
    existing = versions.versions(base) if base.exists() else []
    if not set(protect) <= set(existing):
        raise ValueError(
            f"protect must contain only versions in {base}, which has {versions.format_versions(existing)}. "
            f"Received: protect={protect}"
        )
    return version, keep, protect


def _check(directory: Path, source: Path) -> None:
    from keras_arcface.serving.saved_model.export_check import check_saved_model

    try:
        check_saved_model(directory)
    except ValueError as error:
        raise ValueError(f"{source} failed the check and is not published: {error}") from error


def _choose_number(base: Path, version: int | None) -> int:
    if version is None:
        return versions.next_version_number(base)
    largest = versions.largest_number(base)
    if version <= largest:
        raise FileExistsError(
            f"version must be larger than {largest}, so that it was never used in {base}. Received: version={version}"
        )
    return version


def _publication_error(error: OSError, source: Path, base: Path, published: Path | None) -> OSError:
    reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if published is not None:
        return OSError(error.errno, f"{source} is published as {published}, but a later step failed. {reason}")
    message = f"{source} could not be published to {base}, and the incomplete copy was removed."
    if error.errno in FULL:
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        reason = write_error(error, base / source.name, f"{size:,}").strerror
    return OSError(error.errno, f"{message} {reason}")
