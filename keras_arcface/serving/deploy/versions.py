"""What the names in a base path mean to TensorFlow Serving, and renaming that replaces nothing."""

import ctypes
import errno
import os
import re
from pathlib import Path

WITHDRAWN = ".withdrawn-"
LARGEST = 2**63 - 1

# The server reads names as absl::SimpleAtoi does: `007` and `+7` are version 7 to it, and files are versions too.
_INTEGER = re.compile(r"[ \t]*[+-]?[0-9]+[ \t]*", re.ASCII)
_AT_THE_WORKING_DIRECTORY, _NO_REPLACE = -100, 1  # of Linux
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def number_of(name: str) -> int | None:
    """The version that the server takes a name for; None if it does not look at it."""
    if not _INTEGER.fullmatch(name):
        return None
    number = int(name)
    return number if -LARGEST - 1 <= number <= LARGEST else None


def published(base: Path) -> dict[int, list[str]]:
    """The versions, ascending, and under which names they are there: one each, unless somebody wrote `7` and `007`."""
    return _by_number((name, name) for name in os.listdir(base))


def withdrawn(base: Path) -> dict[int, list[str]]:
    """The versions that were withdrawn, as `published`."""
    names = (name for name in os.listdir(base) if name.startswith(WITHDRAWN))
    return _by_number((name.removeprefix(WITHDRAWN), name) for name in names)


def next_number(base: Path) -> int:
    """One more than the largest number ever used, and at least 1."""
    there = published(base)  # first: what is withdrawn between the two looks is found by the second
    return 1 + max([0, *there, *withdrawn(base)])


def is_taken(base: Path, number: int) -> bool:
    """Whether a number was ever used; looks in the order of `next_number`."""
    if number in published(base) or os.path.lexists(base / str(number)):
        return True
    return number in withdrawn(base) or os.path.lexists(base / f"{WITHDRAWN}{number}")


def rename_to_new(source: Path, target: Path) -> None:
    """Renames, and never onto anything: `os.rename` alone would replace an empty directory.

    Where the system or the file system cannot do that in one step (NFS, other systems than Linux) there is a moment
    between looking and renaming; in it, a directory is replaced only if it is empty.

    Raises:
        FileExistsError: if there is something at `target`.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = [ctypes.c_char_p(os.fsencode(path)) for path in (source, target)]
        here = ctypes.c_int(_AT_THE_WORKING_DIRECTORY)
        if renameat2(here, paths[0], here, paths[1], ctypes.c_uint(_NO_REPLACE)) == 0:
            return
        code = ctypes.get_errno()
        if code not in _NOT_SUPPORTED:
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def _by_number(names) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for text, name in sorted(names):
        number = number_of(text)
        if number is not None:
            found.setdefault(number, []).append(name)
    return dict(sorted(found.items()))
