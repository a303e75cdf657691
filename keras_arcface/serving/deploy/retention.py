"""Choice and renaming of the old versions that a publication removes."""

import logging
import os
from collections.abc import Collection
from pathlib import Path

from keras_arcface.serving.deploy import staging
from keras_arcface.serving.deploy import versions

_log = logging.getLogger(__name__)


def expired(base: Path, keep: int, protect: Collection[int], newest: int) -> list[str]:
    """Returns the names of the versions to remove after `newest` is published, from the oldest to the newest.

    Args:
        base: base path.
        keep: number of newest versions to keep. A version without saved_model.pb, which a server cannot load, does not
            count.
        protect: versions to keep in addition.
        newest: number of the new version, which is larger than all others.
    """
    published, withdrawn = versions.published(base), versions.withdrawn(base)
    oldest_kept = sorted({*versions.loadable(base, published), newest})[-keep:][0]
    names = [(number, name) for found in (published, withdrawn) for number in found for name in found[number]]
    return [name for number, name in sorted(names) if number < oldest_kept and number not in protect]


def retire(base: Path, keep: int, protect: Collection[int], newest: int) -> None:
    """Gives the versions to remove temporary names, which servers ignore and `staging.remove_leftovers` removes.

    The caller must hold the lock of the base path. Arguments are those of `expired`.
    """
    for name in expired(base, keep, protect, newest):
        try:
            os.rename(base / name, staging.new_path(base))
        except OSError as error:  # not fatal: the new version is published
            _log.warning("%s could not be removed: %s", base / name, error.strerror)
        else:
            _log.info("removed %s", base / name)
