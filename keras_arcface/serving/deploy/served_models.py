"""The models of a server: names, where their versions are, which of them are served, and labels for versions."""

import dataclasses
import logging
import operator
import re
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from keras_arcface.serving.deploy import text_proto
from keras_arcface.serving.deploy import versions as numbering

# Narrower than the server, for which anything without `/` and `:` will do: names stand in URLs, paths and shells.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LABEL = re.compile(r"[A-Za-z0-9_]+")
_LATEST = re.compile(r"latest(?::([0-9]+))?")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model of a server.

    Args:
        name: what clients call it: letters, digits, `_`, `.` and `-`.
        base_path: the absolute path of the directory of its versions, on the server's host.
        versions: which versions are served: "latest" or "latest:2", the newest one or two; "all"; or their numbers.
        labels: names for versions, `{"stable": 3, "canary": 4}`, by which clients may ask for them. They must be
            served; where `base_path` exists, also be there. A server of numbered versions is the safest with labels:
            "latest:2" lets go of an older version that a label points to when the next one is published.

    Raises:
        ValueError: naming the model, if any of these cannot be meant.
    """

    name: str
    base_path: str | Path
    versions: str | Sequence[int] = "latest"
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                "A served model's name must be of letters, digits, `_`, `.` and `-`, and start with one of the first "
                f"three. Received: name={self.name!r}"
            )
        path = Path(self.base_path)
        if not path.is_absolute() or ".." in path.parts or not str(path).isprintable():
            raise self._error("base_path must be an absolute path without `..` and control characters", "base_path")
        if (path / "saved_model.pb").exists() or numbering.number_of(path.name) is not None:
            raise self._error("base_path must be the directory above the versions, not one of them", "base_path")
        object.__setattr__(self, "base_path", path)
        object.__setattr__(self, "versions", self._checked_versions())
        for label, version in self.labels.items():
            if not isinstance(label, str) or not _LABEL.fullmatch(label):
                raise self._error("labels must be of letters, digits and `_`", "labels")
            if not 1 <= operator.index(version) <= numbering.LARGEST:
                raise self._error("labels must point to versions, integers from 1 on", "labels")
        self._check_labels()

    def lines(self, base_path: str) -> list[str]:
        """Its ModelConfig as text, with the path under which the server finds the base path."""
        if self.versions == "all":
            policy = text_proto.message("all", [])
        elif isinstance(self.versions, str):
            policy = text_proto.message("latest", [f"num_versions: {self._window()}"])
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
                raise self._error('versions must be "latest", "latest:2", "all", or a list of numbers', "versions")
            return self.versions
        numbers = sorted(operator.index(number) for number in self.versions)
        if not numbers or numbers[0] < 1 or numbers[-1] > numbering.LARGEST or len(set(numbers)) < len(numbers):
            raise self._error("versions must be different integers from 1 on, and at least one", "versions")
        return tuple(numbers)

    def _window(self) -> int:
        return int(_LATEST.fullmatch(self.versions)[1] or 1)

    def _check_labels(self) -> None:
        labeled = set(self.labels.values())
        numbered = not isinstance(self.versions, str)
        if numbered and not labeled <= set(self.versions):
            raise self._error("labels must point to versions that are served", "labels", "versions")
        if not numbered and self.versions != "all" and len(labeled) > self._window():
            raise self._error("labels point to more versions than are served", "labels", "versions")
        if not self.base_path.is_dir():
            _log.warning("%s does not exist here, so the versions of %r were not looked for", self.base_path, self.name)
            return
        there = list(numbering.published(self.base_path))
        wanted = labeled | set(self.versions) if numbered else labeled
        if not wanted <= set(there):
            raise self._error(f"{self.base_path} has the versions {there or 'none'} alone", "labels", "versions")
        if numbered or self.versions == "all" or not labeled:
            return
        served = there[-self._window() :]
        if not labeled <= set(served):
            raise self._error(f"of the versions {there} only {served} are served", "labels", "versions")
        if len(served) == self._window() and served[0] in labeled:
            _log.warning(
                "model %r: the next version that is published will end %s, which a label points to, under %r",
                *(self.name, served[0], self.versions),
            )

    def _error(self, expected: str, *arguments: str) -> ValueError:
        received = ", ".join(f"{name}={_plain(getattr(self, name))!r}" for name in arguments)
        return ValueError(f"Model {self.name!r}: {expected}. Received: {received}")


def _plain(value):
    return str(value) if isinstance(value, Path) else value
