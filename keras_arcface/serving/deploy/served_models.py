"""Served models, with their names, base paths, versions and labels."""

import dataclasses
import logging
import operator
import os
import re
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from keras_arcface.serving.deploy import text_proto
from keras_arcface.serving.deploy import versions as version_numbers

# Stricter than the server, which accepts everything without `/` and `:`: names are used in URLs, paths and shells.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LABEL = re.compile(r"[A-Za-z0-9_]+")
_LATEST = re.compile(r"latest(?::([0-9]+))?")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """Model that a server serves, an argument of `write_configuration`.

    If `base_path` does not exist on this host, a warning is logged, and the versions and labels are not checked.

    Args:
        name: name in the requests of clients, of letters, digits, `_`, `.` and `-`.
        base_path: absolute path of the directory of the model's versions, on the server's host.
        versions: served versions: "latest" or "latest:2" for the newest one or two, "all", or a list of numbers.
        labels: labels of versions in the requests of clients, such as `{"stable": 3, "canary": 4}`. The versions must
            be served, and must exist if `base_path` exists. If you use labels, list the versions by number: with
            "latest:2" the server unloads the older version after the next publication, even if it has a label.

    Raises:
        TypeError: if a version is not an integer.
        ValueError: if a name, path, version or label is not valid, or if a version or the version of a label does not
            exist or is not served. The message names the model.

    Examples:
        >>> model = ServedModel("faces", "/srv/models/faces", versions=[3, 4], labels={"stable": 3, "canary": 4})
        >>> model.versions
        (3, 4)
        >>> ServedModel("faces", "/srv/models/faces", versions=[3, 4], labels={"stable": 2})
        Traceback (most recent call last):
        ValueError: Model 'faces': labels must point to served versions. Received: labels={'stable': 2}, versions=(3, 4)
    """

    name: str
    base_path: str | os.PathLike
    versions: str | Sequence[int] = "latest"
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                "name must consist of letters, digits, `_`, `.` and `-`, and start with a letter, a digit or `_`. "
                f"Received: name={self.name!r}"
            )
        path = Path(self.base_path)
        if not path.is_absolute() or ".." in path.parts or not str(path).isprintable():
            raise self._error("base_path must be an absolute path without `..` and control characters", "base_path")
        if (path / "saved_model.pb").exists() or version_numbers.version_number(path.name) is not None:
            raise self._error("base_path must be the parent directory of the versions, not a version", "base_path")
        object.__setattr__(self, "base_path", path)
        object.__setattr__(self, "versions", self._checked_versions())
        for label, version in self.labels.items():
            if not isinstance(label, str) or not _LABEL.fullmatch(label):
                raise self._error("labels must consist of letters, digits and `_`", "labels")
            if not 1 <= operator.index(version) <= version_numbers.MAX_VERSION:
                raise self._error("labels must point to versions, integers of at least 1", "labels")
        self._check_labels()

    def to_text_proto(self, base_path: str) -> list[str]:
        """Returns the lines of the protocol buffer ModelConfig.

        Args:
            base_path: base path as the server sees it, for example in a container.

        Returns:
            The lines.
        """
        if self.versions == "all":
            policy = text_proto.message("all", [])
        elif isinstance(self.versions, str):
            policy = text_proto.message("latest", [f"num_versions: {_latest_count(self.versions)}"])
        else:
            policy = text_proto.message("specific", [f"versions: {version}" for version in self.versions])
        lines = [
            f"name: {text_proto.string(self.name)}",
            f"base_path: {text_proto.string(base_path)}",
            'model_platform: "tensorflow"',
            *text_proto.message("model_version_policy", policy),
        ]
        for label, version in sorted(self.labels.items()):
            entry = [f"key: {text_proto.string(label)}", f"value: {version}"]
            lines += text_proto.message("version_labels", entry)
        return text_proto.message("config", lines)

    def _checked_versions(self) -> str | tuple[int, ...]:
        if isinstance(self.versions, str):
            latest = _LATEST.fullmatch(self.versions)
            if self.versions != "all" and not (latest and 1 <= int(latest[1] or 1) < 2**32):
                raise self._error(
                    'versions must be "latest", "latest:N" with N of at least 1, "all", or a list of numbers',
                    "versions",
                )
            return self.versions
        numbers = sorted(operator.index(number) for number in self.versions)
        in_range = bool(numbers) and numbers[0] >= 1 and numbers[-1] <= version_numbers.MAX_VERSION
        if not in_range or len(set(numbers)) < len(numbers):
            raise self._error(
                "versions must be one or more different integers of at least 1",
                "versions",
            )
        return tuple(numbers)

    def _check_labels(self) -> None:
        """Raises a ValueError if a label points to a version that does not exist or is not served."""
        labeled = set(self.labels.values())
        base, requested = Path(self.base_path), labeled
        latest_count = None
        if not isinstance(self.versions, str):
            requested = labeled | set(self.versions)
            if requested != set(self.versions):
                raise self._error("labels must point to served versions", "labels", "versions")
        elif self.versions != "all":
            latest_count = _latest_count(self.versions)
            if len(labeled) > latest_count:
                raise self._error(f"labels must point to at most {latest_count} versions", "labels", "versions")
        if not base.is_dir():
            _log.warning("%s does not exist on this host. The versions of %r are not checked", base, self.name)
            return
        existing = list(version_numbers.published(base))
        if not requested <= set(existing):
            raise self._error(
                f"versions and labels must be among the versions in {base}, {existing}", "labels", "versions"
            )
        if latest_count is None or not labeled:
            return
        served = existing[-latest_count:]
        if not labeled <= set(served):
            raise self._error(f"labels must point to served versions, which are {served}", "labels", "versions")
        if len(served) == latest_count and served[0] in labeled:
            _log.warning(
                "model %r: version %s has a label, and the next publication will end it because of versions=%r",
                *(self.name, served[0], self.versions),
            )

    def _error(self, expected: str, *arguments: str) -> ValueError:
        values = {name: getattr(self, name) for name in arguments}
        received = ", ".join(
            f"{name}={str(value) if isinstance(value, Path) else value!r}" for name, value in values.items()
        )
        return ValueError(f"Model {self.name!r}: {expected}. Received: {received}")


def _latest_count(versions: str) -> int:
    """Returns the number of versions in a string such as "latest:2"."""
    match = _LATEST.fullmatch(versions)
    assert match
    return int(match[1] or 1)
