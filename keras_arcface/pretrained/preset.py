"""Description of a network: its license, its published or measured figures, and the files of its weights."""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any

from keras_arcface._choices import ALIGNMENTS
from keras_arcface._files import is_file_name
from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface._weights_files import WeightsFile


@dataclasses.dataclass(frozen=True)
class License:
    """License of the weights.

    Attributes:
        name: SPDX identifier, or the terms in a few words.
        url: address of its text.
        commercial_use: whether it allows commercial use. `load` requires `accept_license=True` otherwise.
    """

    name: str = ""
    url: str = ""
    commercial_use: bool = True


@dataclasses.dataclass(frozen=True)
class Figure:
    """Figure of an evaluation.

    Attributes:
        benchmark: name of the evaluation set, such as "LFW".
        metric: name of the metric, such as "accuracy" or "TAR@FAR=1e-4".
        value: value of the metric. Rates are in [0, 1].
        interval: 95% confidence interval, None if the source has none.
        source: address of the publication, or the kind of measurement.
    """

    benchmark: str
    metric: str
    value: float
    interval: tuple[float, ...] | None = None
    source: str = ""

    def __post_init__(self):
        _check_interval(self.interval)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Cosine at or above which two images are accepted as the same person.

    Attributes:
        threshold: cosine of two embeddings.
        far: false accept rate at this threshold, None if the source does not state it.
        far_interval: 95% confidence interval of the false accept rate.
        tar: true accept rate at this threshold.
        source: address of the publication, or the evaluation sets.
    """

    threshold: float
    far: float | None = None
    far_interval: tuple[float, ...] | None = None
    tar: float | None = None
    source: str = ""

    def __post_init__(self):
        _check_interval(self.far_interval)


@dataclasses.dataclass(frozen=True)
class Preset:
    """Description of a network that `load` loads by its name.

    `presets` returns those of this package, and `save_preset` writes one beside an embedder.

    Attributes:
        name: name for `load`.
        description: what the network is.
        network: name of the network, if possible that of its function in `keras_arcface.backbones`.
        dim: length of an embedding.
        image_size: height and width of the images.
        color: order of the color channels, always "RGB".
        alignment: "five_points" for the alignment of `data.align`, "none" for images as they are, or "" if unknown.
        trained_on: training data.
        license: `name`, `url` and `commercial_use` of the license of the weights.
        figures: published or measured figures: `benchmark`, `metric`, `value`, `interval` and `source` of each.
        thresholds: cosines at or above which a pair is accepted: `threshold`, `far`, `far_interval`, `tar` and `source`
            of each.
        references: publications.
        files: files of which each contains the weights: `name`, `sha256`, `size`, `description`, `checksum_source`,
            `url`, `package`, `package_path`, `requirement` and `installed` of each.

    Examples:
        >>> preset = presets()["sface"]
        >>> preset.network, preset.dim, preset.license.name
        ('MobileNetV1', 128, 'Apache-2.0')
        >>> preset.figures[0].benchmark, preset.figures[0].value
        ('LFW', 0.994)
    """

    name: str
    network: str
    dim: int
    image_size: tuple[int, ...]
    description: str = ""
    color: str = "RGB"
    alignment: str = ""
    trained_on: str = ""
    license: License = License()
    figures: tuple[Figure, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    references: tuple[str, ...] = ()
    files: tuple[WeightsFile, ...] = ()

    def __post_init__(self):
        _check("name", self.name, is_file_name(self.name), "a text without slashes")
        _check("dim", self.dim, self.dim >= 1, "at least 1")
        is_size = len(self.image_size) == 2 and min(self.image_size) >= 1
        _check("image_size", list(self.image_size), is_size, "a height and a width")
        _check("color", self.color, self.color == "RGB", "RGB, which every embedder of this package takes")
        is_alignment = self.alignment in ("", *ALIGNMENTS)
        _check("alignment", self.alignment, is_alignment, f"one of {', '.join(ALIGNMENTS)}, or empty")

    def __repr__(self) -> str:
        return (
            f"Preset({self.name!r}, network={self.network!r}, dim={self.dim}, license={self.license.name!r}, "
            f"commercial_use={self.license.commercial_use})"
        )


def to_table(value: Any) -> Any:
    """Converts a preset, or a part of one, to types that TOML and JSON have. Empty fields are left out."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: to_table(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {name: entry for name, entry in fields.items() if entry not in (None, "", [], {})}
    return [to_table(entry) for entry in value] if isinstance(value, tuple) else value


def from_table(kind: type, table: Any, where: str = "") -> Any:
    """Converts a dictionary with the fields of a dataclass to an object of it.

    Args:
        kind: `Preset`, or the class of a part of it.
        table: dictionary, as in a TOML file.
        where: name of the dictionary in the file, for errors.

    Raises:
        ValueError: if a field is unknown, missing, or has another type or value than expected.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{where or 'The file'} must be a table. Received: {short(table)}")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for name in table:
        if name not in hints:
            meant = difflib.get_close_matches(name, hints, n=1)
            suggestion = f" Did you mean {meant[0]}?" if meant else ""
            raise ValueError(f"{where or 'It'} has no field {short(name)}.{suggestion} Fields: {', '.join(hints)}")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in table:
            raise ValueError(f"{prefix}{field.name} is missing")
    values = {name: _convert(hints[name], value, prefix + name) for name, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Returns a value of a TOML file as the type of its field."""
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    if isinstance(hint, types.GenericAlias):
        entry, _ = typing.get_args(hint)
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list. Received: {short(value)}")
        return tuple(_convert(entry, item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return from_table(hint, value, where)
    if hint is float and type(value) in (int, float):
        if not math.isfinite(value) or abs(value) > 1e9:
            raise ValueError(f"{where} must be a finite number. Received: {short(value)}")
        return float(value)
    if type(value) is not hint:
        expected = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}[hint]
        raise ValueError(f"{where} must be {expected}. Received: {short(value)}")
    return value


def _check_interval(interval: tuple[float, ...] | None) -> None:
    is_interval = interval is None or (len(interval) == 2 and interval[0] <= interval[1])
    _check("interval", interval, is_interval, "two numbers, the lower one first")


def _check(name: str, value: Any, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"{name} must be {expected}. Received: {name}={cut(short(value))}")
