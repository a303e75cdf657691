"""SavedModel -> the next numbered version below a base path, as TensorFlow Serving looks for them; and back.

The server lists the base path every second, takes every integer-named directory for a version, and does not look
whether it is complete. So a directory gets such a name in one step when it is whole, and loses it in one step before
anything of it is removed.
"""

import errno
import logging
import operator
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from keras_arcface.serving.deploy import staging
from keras_arcface.serving.deploy import versions as numbering

_log = logging.getLogger(__name__)


def publish(
    saved_model,
    base_path,
    version: int | None = None,
    keep: int | None = None,
    protect: Iterable[int] = (),
    check: bool = True,
    dry_run: bool = False,
) -> Path:
    """Copies a SavedModel below a base path as a new version, which appears there at once and complete.

    It is copied to `.tmp-<unique>` on the same file system, written through to the disk, checked there, and renamed.
    Several publishers may run at once, also on several hosts: each gets a number of its own. What a killed one has
    left behind is removed by the next. The file system must rename directories in one step, as local ones and NFS do
    and object stores do not. What is done is said through `logging`.

    Args:
        saved_model: a directory with `saved_model.pb` in it.
        base_path: the directory of the model's versions, `models/faces` for instance; made if it does not exist.
        version: the new version's number, at least 1; None for one more than the largest ever used, a withdrawn one's
            included.
        keep: how many of the newest versions stay, this one included; the others are removed, and withdrawn ones older
            than these. None removes nothing. Keep more than the servers serve, as one may be loading.
        protect: versions that stay beside, such as those that labels point to.
        check: whether the copy must load and answer as it should, see `check_saved_model`, before it is renamed.
        dry_run: says what would be done (and checks `saved_model` itself), but does nothing.

    Returns:
        The new version's directory.

    Raises:
        FileExistsError: if `version` was used before, or is being published by another.
        FileNotFoundError: if there is no `saved_model`.
        OSError: naming both paths, if it cannot be copied: a full disk, no permission. Nothing is left then.
        ValueError: if `saved_model` is none, does not pass the check, lies in `base_path`, or contains it; if
            `base_path` is a SavedModel or has an integer for its name; or if an argument is out of range.
    """
    source, base = Path(saved_model), Path(base_path)
    _check_paths(source, base)
    version, keep, protect = _check_arguments(base, version, keep, protect)
    if dry_run:
        if check:
            _check(source, source)
        number = version if version is not None else int(next_version(base).name)
        _log.info("would publish %s as %s", source, base / str(number))
        if keep is not None and base.exists():
            for name in _retired(base, keep, {*protect, number}, {number: [str(number)]}):
                _log.info("would remove %s", base / name)
        return base / str(number)
    try:
        base.mkdir(parents=True, exist_ok=True)
        staging.remove_leftovers(base)
        with staging.Staging(base) as directory:
            staging.copy_tree(source, directory)
            if check:
                _check(directory, source)
            number = _put_in_place(directory, base, version)
    except FileExistsError:
        raise
    except OSError as error:
        raise _explained(error, source, base) from error
    staging.sync_directory(base)
    _log.info("published %s as %s", source, base / str(number))
    newest = max(numbering.published(base), default=number)
    if version is not None and newest > number:
        _log.warning("version %s is not the newest of %s: a server of the latest serves %s", number, base, newest)
    if keep is not None:
        for name in _retired(base, keep, {*protect, number}):
            _remove(base, name)
    return base / str(number)


def next_version(base_path) -> Path:
    """The directory that the next version below a base path would have: one more than the largest number ever used.

    For `export_saved_model`, if no other process publishes to the base path meanwhile; otherwise export elsewhere, and
    `publish`.

    Raises:
        NotADirectoryError: if the base path is a file.
        ValueError: if it is a SavedModel or has an integer for its name.

    >>> # serving.export_saved_model(embedder, serving.next_version("models/faces"))
    """
    base = Path(base_path)
    _check_base(base)
    return base / str(numbering.next_number(base) if base.exists() else 1)


def rollback(base_path, to: int | None = None, dry_run: bool = False) -> Path:
    """Withdraws the newest version, or all that are newer than one, so that a server falls back within a second.

    A withdrawn version stays as `.withdrawn-<n>`, and its number is not given again.

    Args:
        base_path: the directory of the model's versions.
        to: the version to go back to; None for the last but one.
        dry_run: says through `logging` what would be withdrawn, but does nothing.

    Returns:
        The directory of the version that is now the newest.

    Raises:
        FileNotFoundError: if there is no such base path.
        OSError: if a version cannot be renamed.
        ValueError: naming the versions there are, if there is nothing to go back to, or to withdraw.
    """
    base = Path(base_path)
    there = versions(base)
    if to is None:
        if len(there) < 2:
            raise ValueError(f"{base} has no older version to go back to. Received: {_versions_in_words(there)}")
        to = there[-2]
    if to not in there:
        raise ValueError(f"{base} has no version {to} to go back to. Received: to={to}, {_versions_in_words(there)}")
    if to == there[-1]:
        raise ValueError(f"{base} has nothing newer than {to} to withdraw. Received: {_versions_in_words(there)}")
    for number, names in reversed(numbering.published(base).items()):
        for name in names if number > to else ():
            if dry_run:
                _log.info("would withdraw %s", base / name)
                continue
            try:
                numbering.rename_to_new(base / name, base / f"{numbering.WITHDRAWN}{name}")
            except FileNotFoundError:  # withdrawn by another just now
                continue
            _log.info("withdrew %s", base / name)
    staging.sync_directory(base)
    return base / numbering.published(base)[to][0]


def versions(base_path) -> list[int]:
    """The versions below a base path that a server sees, ascending.

    Raises:
        FileNotFoundError: if there is no such base path.
    """
    base = Path(base_path)
    if not base.is_dir():
        raise FileNotFoundError(f"There is no directory of versions at {base}")
    return list(numbering.published(base))


def _check_paths(source: Path, base: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(f"There is no SavedModel at {source}")
    if not (source / "saved_model.pb").is_file():
        received = sorted(os.listdir(source))[:5] or "nothing in it" if source.is_dir() else "a file"
        raise ValueError(
            f"{source} is no SavedModel. Expected: a directory with saved_model.pb in it. Received: {received}"
        )
    _check_base(base)
    inner, outer = source.resolve(), base.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ValueError(
            "The SavedModel and the base path must lie apart: export to another place, and publish from there. "
            f"Received: saved_model={source}, base_path={base}"
        )


def _check_base(base: Path) -> None:
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(f"{base} is a file. Expected: the directory of a model's versions, or a new one")
    if (base / "saved_model.pb").exists() or numbering.number_of(base.resolve().name) is not None:
        raise ValueError(
            f"{base} is no base path. Expected: the directory of a model's versions, whose own name is no integer, as "
            "a server would take it for a version; and without saved_model.pb in it"
        )


def _check_arguments(base: Path, version, keep, protect):
    protect = sorted({operator.index(number) for number in protect})
    if version is not None:
        version = operator.index(version)
        if not 1 <= version <= numbering.LARGEST:
            raise ValueError(f"version must be an integer from 1 to {numbering.LARGEST}. Received: version={version}")
        if base.exists() and numbering.is_taken(base, version):
            raise _taken(base, version)
    if keep is not None and operator.index(keep) < 1:
        raise ValueError(f"keep must be at least 1. Received: keep={keep}")
    there = versions(base) if base.exists() else []
    if not set(protect) <= set(there):
        raise ValueError(
            f"protect names a version that {base} does not have. Received: protect={protect}, "
            f"{_versions_in_words(there)}"
        )
    return version, keep, protect


def _check(directory: Path, source: Path) -> None:
    from keras_arcface.serving.saved_model.verification import check_saved_model

    try:
        check_saved_model(directory)
    except ValueError as error:
        raise ValueError(f"{source} is not fit to be published: {error}") from error


def _put_in_place(directory: Path, base: Path, version: int | None) -> int:
    number = numbering.next_number(base) if version is None else version
    while True:
        if not numbering.is_taken(base, number):
            try:
                numbering.rename_to_new(directory, base / str(number))
            except FileExistsError:
                _log.info("version %s was published by another just now", number)
            else:
                return number
        if version is not None:
            raise _taken(base, version)
        number = max(number + 1, numbering.next_number(base))


def _retired(base: Path, keep: int, spared: set[int], to_come: dict[int, list[str]] | None = None) -> list[str]:
    """Names of what retention removes, oldest first, if `to_come` is published."""
    published = numbering.published(base) | (to_come or {})
    oldest = sorted(published)[-keep:][0]
    names = [(number, name) for number in published if number not in spared for name in published[number]]
    names += [(number, name) for number, names in numbering.withdrawn(base).items() for name in names]
    return [name for number, name in sorted(names) if number < oldest]


def _remove(base: Path, name: str) -> None:
    aside = staging.new_name(base)
    try:
        numbering.rename_to_new(base / name, aside)
    except FileNotFoundError:  # removed by another just now
        return
    except OSError as error:  # the new version is in its place all the same
        _log.warning("%s could not be removed: %s", base / name, error.strerror)
        return
    staging.remove_leftovers(base)
    _log.info("removed %s", base / name)


def _explained(error: OSError, source: Path, base: Path) -> OSError:
    what = f"{source} was not published to {base}, and nothing is left there. {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        free = shutil.disk_usage(base).free
        return OSError(error.errno, f"{what}: it takes {size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")
    return OSError(error.errno, f"{what}: {error.filename}" if error.filename else what)


def _taken(base: Path, version: int) -> FileExistsError:
    return FileExistsError(
        f"Version {version} of {base} was published before: a number is used once. Expected: a new one, or None"
    )


def _versions_in_words(numbers: list[int]) -> str:
    return f"versions {', '.join(map(str, numbers))}" if numbers else "no versions"
