"""Withdrawal of published versions."""

import logging
import os
from pathlib import Path

from keras_arcface._files import sync_directory
from keras_arcface.serving.deploy.base_path_lock import base_path_lock
from keras_arcface.serving.deploy.versions import WITHDRAWN_PREFIX
from keras_arcface.serving.deploy.versions import format_versions
from keras_arcface.serving.deploy.versions import loadable
from keras_arcface.serving.deploy.versions import published
from keras_arcface.serving.deploy.versions import versions

_log = logging.getLogger(__name__)


def rollback(base_path: str | os.PathLike, to: int | None = None, dry_run: bool = False) -> Path:
    """Withdraws the newest version, or all versions after `to`, so that servers load an older version.

    A withdrawn version is renamed to `.withdrawn-<n>`, and its number is not used again. Publications and other
    rollbacks wait until the call ends. A server unloads the withdrawn versions within seconds.

    Args:
        base_path: directory of the model's versions.
        to: number of the version that becomes the newest. None: the second newest version that a server can load.
        dry_run: whether to only log the planned changes.

    Returns:
        Directory of the version that is the newest after the call.

    Raises:
        BlockingIOError: if another process holds the lock of the base path for a minute.
        FileNotFoundError: if the base path is not a directory.
        OSError: if a version cannot be renamed. The message lists the versions that are withdrawn.
        ValueError: if `to` does not exist, is the newest version or has no saved_model.pb, or if `to` is None and there
            is no older version. The message lists the versions.

    Examples:
        >>> versions("models/faces")
        [1, 2]
        >>> rollback("models/faces")
        PosixPath('models/faces/1')
        >>> versions("models/faces"), next_version("models/faces").name
        ([1], '3')
    """
    base = Path(base_path)
    versions(base)  # raises the error for a path that is not a directory
    if dry_run:
        newest, names = _plan(base, to)
        for name in names:
            _log.info("would withdraw %s", base / name)
        return newest
    withdrawn: list[str] = []
    try:
        with base_path_lock(base):
            newest, names = _plan(base, to)
            for name in names:
                os.rename(base / name, base / f"{WITHDRAWN_PREFIX}{name}")
                withdrawn.append(name)
                _log.info("withdrew %s", base / name)
            sync_directory(base)
    except BlockingIOError:
        raise
    except OSError as error:
        done = f"withdrew only {', '.join(withdrawn)}" if withdrawn else "withdrew no version"
        raise OSError(error.errno, f"The rollback in {base} {done} and failed: {error}") from error
    return newest


def _plan(base: Path, to: int | None) -> tuple[Path, list[str]]:
    """Returns the directory of the version that becomes the newest, and the names to withdraw, the newest first."""
    existing = published(base)
    newest = max(existing, default=0)
    older = {number: name for number, name in loadable(base, existing).items() if number < newest}
    if to is None:
        if len(existing) < 2:
            raise ValueError(f"{base} must contain at least two versions. Received: {format_versions(existing)}")
        if not older:
            raise ValueError(
                f"{base} must contain an older version with saved_model.pb. Received: {format_versions(existing)}"
            )
        to = max(older)
    if to not in existing:
        raise ValueError(f"to must be a version in {base}, which has {format_versions(existing)}. Received: to={to}")
    if to == newest:
        raise ValueError(f"to must be older than the newest version in {base}. Received: to={to}")
    if to not in older:
        raise ValueError(f"to must be a version with saved_model.pb in {base}. Received: to={to}")
    names = [name for number in reversed(existing) if number > to for name in existing[number]]
    for name in names:
        if os.path.lexists(base / f"{WITHDRAWN_PREFIX}{name}"):
            raise ValueError(
                f"A version in {base} must not also exist as a withdrawn version. Received: {name} and "
                f"{WITHDRAWN_PREFIX}{name}"
            )
    return base / older[to], names
