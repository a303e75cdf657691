"""Withdrawal of published versions."""

import logging
import os
from pathlib import Path

from keras_arcface._files import sync_directory
from keras_arcface.serving.deploy import exclusive_rename
from keras_arcface.serving.deploy.versions import WITHDRAWN_PREFIX
from keras_arcface.serving.deploy.versions import list_versions
from keras_arcface.serving.deploy.versions import published
from keras_arcface.serving.deploy.versions import versions

_log = logging.getLogger(__name__)


def rollback(base_path: str | os.PathLike, to: int | None = None, dry_run: bool = False) -> Path:
    """Withdraws the newest version, or all versions after `to`, so that a server returns to an older one.

    A withdrawn version is renamed to `.withdrawn-<n>`, and its number is not used again.

    Args:
        base_path: directory of the model's versions.
        to: the version to return to. None: the second newest.
        dry_run: only log what would be withdrawn.

    Returns:
        The directory of the version that is the newest after the call.

    Raises:
        FileNotFoundError: if the base path does not exist.
        OSError: if a version cannot be renamed.
        ValueError: if there is no version to return to, or none to withdraw. The message lists the versions.
    """
    base = Path(base_path)
    existing = versions(base)
    if to is None:
        if len(existing) < 2:
            raise ValueError(f"{base} has no older version to return to. Received: {list_versions(existing)}")
        to = existing[-2]
    if to not in existing:
        raise ValueError(f"to must be a version in {base}. Received: to={to}, {list_versions(existing)}")
    if to == existing[-1]:
        raise ValueError(f"{base} has no version after {to} to withdraw. Received: {list_versions(existing)}")
    for number, names in reversed(published(base).items()):
        for name in names if number > to else ():
            if dry_run:
                _log.info("would withdraw %s", base / name)
                continue
            try:
                exclusive_rename.rename_exclusively(base / name, base / f"{WITHDRAWN_PREFIX}{name}")
            except FileNotFoundError:  # a concurrent rollback withdrew it
                continue
            _log.info("withdrew %s", base / name)
    sync_directory(base)
    return base / published(base)[to][0]
