"""Publication of a SavedModel as the next numbered version in a base path of TensorFlow Serving.

The server lists the base path every second and loads each directory with an integer name, even an incomplete one.
Therefore a complete directory is renamed to an integer in one step, and an old version is renamed back in one step
before its files are removed.
"""

import errno
import logging
import operator
import os
import shutil
from collections.abc import Collection
from collections.abc import Iterable
from pathlib import Path

from keras_arcface._arguments import check_integer
from keras_arcface._files import sync_directory
from keras_arcface.serving.deploy import exclusive_rename
from keras_arcface.serving.deploy import staging
from keras_arcface.serving.deploy import versions

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

    The copy is written to `.tmp-<unique>` on the same file system, flushed to the disk, checked and renamed. Several
    publishers may run at the same time, also on several hosts. Each of them gets a different version number. If a
    publisher is killed, the next one removes its files. The file system must rename directories atomically, as local
    file systems and NFS do, and object stores do not. Progress is logged.

    Args:
        saved_model: directory of the SavedModel, which contains `saved_model.pb`.
        base_path: directory of the model's versions, for example `models/faces`. It is created if it does not exist.
        version: number of the new version, at least 1. None: the largest number that was ever used, including
            withdrawn versions, plus 1.
        keep: number of newest versions to keep, including the new one. Older versions and older withdrawn ones are
            removed. None: no version is removed. Keep more versions than the servers serve, because a server may still
            load an older one.
        protect: numbers of versions that are not removed, for example versions with labels.
        check: whether to verify the copy with `check_saved_model` before it is renamed.
        dry_run: whether to only check `saved_model` and log the planned changes.

    Returns:
        Directory of the new version.

    Raises:
        FileExistsError: if `version` was used before, or a concurrent publisher uses it.
        FileNotFoundError: if `saved_model` does not exist.
        OSError: if the model cannot be copied, for example because the disk is full or a permission is missing. The
            message names both paths. The incomplete copy is removed.
        ValueError: if `saved_model` is not a SavedModel, fails the check, is inside `base_path` or contains it; if
            `base_path` is a SavedModel or its name is an integer; or if another argument is out of range.
    """
    source, base = Path(saved_model), Path(base_path)
    _check_paths(source, base)
    version, keep, protect = _check_numbers(base, version, keep, protect)
    if dry_run:
        return _log_plan(source, base, version, keep, protect, check)
    try:
        base.mkdir(parents=True, exist_ok=True)
        staging.remove_leftovers(base)
        with staging.Staging(base) as directory:
            staging.copy_tree(source, directory)
            if check:
                _check(directory, source)
            number = _rename_to_version(directory, base, version)
    except FileExistsError:
        raise
    except OSError as error:
        raise _publication_error(error, source, base) from error
    sync_directory(base)
    _log.info("published %s as %s", source, base / str(number))
    newest = max(versions.published(base), default=number)
    if version is not None and newest > number:
        _log.warning("version %s is not the newest in %s: servers of the latest version serve %s", number, base, newest)
    if keep is not None:
        for name in _expired(base, keep, {*protect, number}):
            _remove(base, name)
    return base / str(number)


def _log_plan(source: Path, base: Path, version: int | None, keep: int | None, protect, check: bool) -> Path:
    if check:
        _check(source, source)
    number = version if version is not None else int(versions.next_version(base).name)
    _log.info("would publish %s as %s", source, base / str(number))
    if keep is not None and base.exists():
        for name in _expired(base, keep, {*protect, number}, {number: [str(number)]}):
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
        if base.exists() and versions.is_used(base, version):
            raise _used_version_error(base, version)
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


def _rename_to_version(directory: Path, base: Path, version: int | None) -> int:
    number = versions.next_version_number(base) if version is None else version
    while True:
        if not versions.is_used(base, number):
            try:
                exclusive_rename.rename_exclusively(directory, base / str(number))
            except FileExistsError:
                _log.info("a concurrent publisher used version %s", number)
            else:
                return number
        if version is not None:
            raise _used_version_error(base, version)
        number = max(number + 1, versions.next_version_number(base))


def _expired(
    base: Path, keep: int, protected: Collection[int], planned: dict[int, list[str]] | None = None
) -> list[str]:
    """Returns the names of the versions to remove after `planned` is published, from the oldest to the newest."""
    published = versions.published(base) | (planned or {})
    oldest_kept = sorted(published)[-keep:][0]
    names = [(number, name) for number in published if number not in protected for name in published[number]]
    names += [(number, name) for number, names in versions.withdrawn(base).items() for name in names]
    return [name for number, name in sorted(names) if number < oldest_kept]


def _remove(base: Path, name: str) -> None:
    temporary = staging.new_path(base)
    try:
        exclusive_rename.rename_exclusively(base / name, temporary)
    except FileNotFoundError:  # a concurrent publisher removed it
        return
    except OSError as error:  # not fatal: the new version is published
        _log.warning("%s could not be removed: %s", base / name, error.strerror)
        return
    staging.remove_leftovers(base)
    _log.info("removed %s", base / name)


def _publication_error(error: OSError, source: Path, base: Path) -> OSError:
    message = f"{source} could not be published to {base}, and the incomplete copy was removed. {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        free = shutil.disk_usage(base).free
        return OSError(error.errno, f"{message}: the model has {size / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free")
    return OSError(error.errno, f"{message}: {error.filename}" if error.filename else message)


def _used_version_error(base: Path, version: int) -> FileExistsError:
    return FileExistsError(f"version must be a number that was never used in {base}. Received: version={version}")
