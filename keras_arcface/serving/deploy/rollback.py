"""Withdrawal of published versions."""

import logging
import os
from pathlib import Path

from keras_arcface._files import sync_directory
from keras_arcface.serving.deploy import exclusive_rename
from keras_arcface.serving.deploy.versions import WITHDRAWN_PREFIX
from keras_arcface.serving.deploy.versions import format_versions
from keras_arcface.serving.deploy.versions import published
from keras_arcface.serving.deploy.versions import versions

_log = logging.getLogger(__name__)


def rollback(base_path: str | os.PathLike, to: int | None = None, dry_run: bool = False) -> Path:
    """Withdraws the newest version, or all versions after `to`, so that servers load an older version.

    A withdrawn version is renamed to `.withdrawn-<n>`, and its number is not used again.

    Args:
        base_path: directory of the model's versions.
        to: number of the version that becomes the newest. None: the second newest version.
        dry_run: whether to only log the planned changes.

    Returns:
        Directory of the version that is the newest after the call.

    Raises:
        FileNotFoundError: if the base path is not a directory.
        OSError: if a version cannot be renamed.
        ValueError: if `to` does not exist or is the newest version, or if `to` is None and there is only one version.
            The message lists the versions.
    """
    base = Path(base_path)
    existing = versions(base)
    if to is None:
        if len(existing) < 2:
            raise ValueError(f"{base} must contain at least two versions. Received: {format_versions(existing)}")
        to = existing[-2]
    if to not in existing:
        raise ValueError(f"to must be a version in {base}, which has {format_versions(existing)}. Received: to={to}")
    if to == existing[-1]:
        raise ValueError(f"to must be older than the newest version in {base}. Received: to={to}")
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
