"""Version numbers in a base path, parsed in the same way as by TensorFlow Serving."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

WITHDRAWN_PREFIX = ".withdrawn-"
MAX_VERSION = 2**63 - 1

# The server parses names with absl::SimpleAtoi, so `007` and `+7` are version 7. It also reads files as versions.
_INTEGER = re.compile(r"[ \t]*[+-]?[0-9]+[ \t]*", re.ASCII)


def versions(base_path: str | os.PathLike) -> list[int]:
    """Returns the published versions in a base path in ascending order.

    Args:
        base_path: directory of the model's versions.

    Returns:
        Version numbers, as TensorFlow Serving reads them from the names in the directory. Withdrawn and unfinished
        versions are not included.

    Raises:
        FileNotFoundError: if the base path is not a directory.

    Examples:
        >>> versions("models/faces")
        [1, 2]
    """
    base = Path(base_path)
    if not base.is_dir():
        raise FileNotFoundError(f"base_path must be an existing directory. Received: base_path={str(base)!r}")
    return list(published(base))


def next_version(base_path: str | os.PathLike) -> Path:
    """Returns the directory of the next version in a base path.

    The number is the largest number that was ever used plus 1. Use the directory for `export_saved_model` if no other
    process publishes to the base path at the same time. Otherwise export to a different directory and call `publish`.

    Args:
        base_path: directory of the model's versions, which may not exist yet.

    Returns:
        Path of the directory, which is not created.

    Raises:
        NotADirectoryError: if the base path is a file.
        ValueError: if the base path is a SavedModel, its name is an integer, or the largest possible number is used.

    Examples:
        >>> next_version("models/faces")  # it contains the versions 1 and 2
        PosixPath('models/faces/3')
        >>> next_version("models/new")
        PosixPath('models/new/1')
    """
    base = Path(base_path)
    check_base_path(base)
    return base / str(next_version_number(base) if base.exists() else 1)


def version_number(name: str) -> int | None:
    """Returns the version number that a server parses from a name, or None if the server ignores the name."""
    if not _INTEGER.fullmatch(name):
        return None
    number = int(name)
    return number if -MAX_VERSION - 1 <= number <= MAX_VERSION else None


def published(base: Path) -> dict[int, list[str]]:
    """Returns `{version: names}` in ascending order. A version has two names if both `7` and `007` exist."""
    return _group_by_version((name, name) for name in os.listdir(base))


def withdrawn(base: Path) -> dict[int, list[str]]:
    """Returns `{version: names}` of the withdrawn versions, in ascending order."""
    names = (name for name in os.listdir(base) if name.startswith(WITHDRAWN_PREFIX))
    return _group_by_version((name.removeprefix(WITHDRAWN_PREFIX), name) for name in names)


def loadable(base: Path, found: dict[int, list[str]]) -> dict[int, str]:
    """Returns `{version: name}` of those published versions that contain saved_model.pb, in ascending order."""
    return {
        number: name
        for number, names in found.items()
        for name in reversed(names)
        if os.path.isfile(base / name / "saved_model.pb")
    }


def largest_number(base: Path) -> int:
    """Returns the largest version number that was ever used, or 0.

    A publication uses a larger number, and retention only removes versions below a published one. Therefore the largest
    number is always that of a published or a withdrawn version.
    """
    return max([0, *_group_by_version((name.removeprefix(WITHDRAWN_PREFIX), name) for name in os.listdir(base))])


def next_version_number(base: Path) -> int:
    """Returns the largest version number that was ever used plus 1, and at least 1.

    Raises:
        ValueError: if the largest possible number is used.
    """
    number = largest_number(base) + 1
    if number > MAX_VERSION:
        raise ValueError(f"{base} must not contain version {MAX_VERSION}, because a server cannot read larger numbers")
    return number


def check_base_path(base: Path) -> None:
    """Raises an error if a path cannot be the base path of a model.

    Raises:
        NotADirectoryError: if the path is a file.
        ValueError: if the path is a SavedModel, or its name is an integer.
    """
    if os.path.lexists(base) and not base.is_dir():
        received = "a link to nothing" if not base.exists() else "a file"
        raise NotADirectoryError(
            f"base_path must be a directory or not exist. Received: base_path={str(base)!r}, {received}"
        )
    if (base / "saved_model.pb").exists() or version_number(base.resolve().name) is not None:
        raise ValueError(
            "base_path must be the directory of a model's versions, without saved_model.pb and with a name that is not "
            f"an integer. Received: base_path={str(base)!r}"
        )


def format_versions(numbers: Iterable[int]) -> str:
    """Returns a text that lists version numbers, for error messages."""
    return f"versions {', '.join(map(str, numbers))}" if numbers else "no versions"


def _group_by_version(names: Iterable[tuple[str, str]]) -> dict[int, list[str]]:
    """Groups pairs `(text, name)` by the version number in the text. Pairs without a number are ignored."""
    found: dict[int, list[str]] = {}
    for text, name in sorted(names):
        number = version_number(text)
        if number is not None:
            found.setdefault(number, []).append(name)
    return dict(sorted(found.items()))
