"""Presets of this package and of users, which are TOML files."""

import difflib
import tomllib
from pathlib import Path

from keras_arcface._messages import cut
from keras_arcface._regular_files import open_regular
from keras_arcface.pretrained.preset import Preset
from keras_arcface.pretrained.preset import from_table
from keras_arcface.pretrained.preset import to_table

PRESET_FILE = "preset.toml"  # in a folder of `save_preset`

_FOLDER = Path(__file__).parent / "presets"
_MAX_BYTES = 1 << 20  # a preset has about 3 KB


def presets() -> dict[str, Preset]:
    """Returns the published networks that `load` loads by their name.

    Their weights are not part of this package. Each entry says where they may come from, their checksum, and their
    license.

    Returns:
        A name -> `Preset` dictionary, in alphabetical order.

    Examples:
        >>> presets()["sface"]
        Preset('sface', network='MobileNetV1', dim=128, license='Apache-2.0', commercial_use=True)
        >>> [name for name, preset in presets().items() if preset.license.commercial_use]
        ['sface']
    """
    return {path.stem: read(path, path.stem) for path in sorted(_FOLDER.glob("*.toml"))}


def names() -> list[str]:
    """Returns the names of `presets`, without reading them."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def get(name: str) -> Preset:
    """Returns the preset of a name that is in `names`."""
    return read(_FOLDER / f"{name}.toml", name)


def suggestion(name: str) -> str:
    """Returns `. Did you mean NAME?` for a misspelled name of a preset, and an empty text otherwise."""
    meant = difflib.get_close_matches(name.lower(), names(), n=1)
    return f". Did you mean {meant[0]}?" if meant else ""


def check_is_file(path: Path) -> None:
    """Raises a FileNotFoundError if the argument `path` of a function is no file."""
    if not path.is_file():
        hint = f". pretrained.load({str(path)!r}) loads the published network" if str(path) in names() else ""
        raise FileNotFoundError(f"path must be an existing file. Received: path={str(path)!r}{hint}")


def read(path: Path, name: str | None = None) -> Preset:
    """Reads a preset.

    Args:
        path: path of a TOML file with the fields of `Preset`.
        name: name of the preset if the file does not contain it.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not the description of a network. The message names it.
    """
    with open_regular(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_BYTES} bytes. Received: more")
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML file: {cut(str(error))}") from None
    try:
        return from_table(Preset, table if name is None else {"name": name, **table})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_toml(preset: Preset) -> str:
    """Returns a preset as the text of a TOML file."""
    import tomli_w

    return tomli_w.dumps(to_table(preset), multiline_strings=True)
