"""Recipes of this package and of users, which are TOML files."""

import dataclasses
import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from keras_arcface._files import replacing
from keras_arcface._messages import short
from keras_arcface._regular_files import read_regular
from keras_arcface.recipes.recipe import Recipe

_FOLDER = Path(__file__).parent
_MAX_BASES = 20


def names() -> list[str]:
    """Returns the names of all recipes of this package.

    Returns:
        A list of names for `get`, in alphabetical order.

    Examples:
        >>> "ms1mv3_r50" in names()
        True
    """
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def get(identifier: str | os.PathLike, **settings: Any) -> Recipe:
    """Returns a recipe by its name, or reads it from a TOML file.

    A file has the settings of `Recipe` as keys. With the key `base`, it contains only the settings that differ from
    another recipe, a name or a path relative to the file:

        base = "ms1mv3_r50"
        batch_size = 128
        learning_rate = 0.02

    Args:
        identifier: one of `names()`, or the path of a `.toml` file.
        **settings: settings that replace those of the recipe.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: if the name is unknown, the file is not a recipe, or a setting is not valid.
        OSError: if the file cannot be read.

    Examples:
        >>> get("ms1mv3_r100", epochs=24).epochs
        24.0
    """
    recipe = _read(Path(identifier)) if Path(identifier).suffix == ".toml" else _read(_path_of(os.fspath(identifier)))
    return recipe.replace(**settings)


def save(recipe: Recipe, path: str | os.PathLike) -> None:
    """Writes a recipe to a TOML file, which `get` reads.

    Args:
        recipe: a `Recipe`.
        path: path of the file. An existing file is replaced.

    Raises:
        OSError: if the file cannot be written.

    Examples:
        >>> save(get("small", seed=1), "small_1.toml")
        >>> get("small_1.toml").seed
        1
    """
    with replacing(path) as file:
        file.write(to_toml(recipe).encode("utf-8"))


def to_toml(recipe: Recipe) -> str:
    """Returns a recipe as the text of a TOML file."""
    import tomli_w

    return tomli_w.dumps(dataclasses.asdict(recipe), multiline_strings=True)


def _path_of(name: str) -> Path:
    if name not in names():
        meant = difflib.get_close_matches(name, names(), n=1)
        suggestion = f" Did you mean {meant[0]}?" if meant else ""
        raise ValueError(
            f"The recipe must be one of {', '.join(names())}, or the path of a .toml file. "
            f"Received: {short(name)}.{suggestion}"
        )
    return _FOLDER / f"{name}.toml"


def _read(path: Path, seen: tuple[Path, ...] = ()) -> Recipe:
    """Reads a recipe and the recipes that it starts from."""
    if path.resolve() in seen:
        raise ValueError(f"{path}: the recipe must not start from itself")
    if len(seen) == _MAX_BASES:
        raise ValueError(f"{path}: a recipe must start from at most {_MAX_BASES} others, one after the other")
    content = read_regular(path)
    try:
        settings = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None
    base = settings.pop("base", None)
    try:
        start = Recipe() if base is None else _read_base(base, path, (*seen, path.resolve()))
        return start.replace(**{"description": "", **settings})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_base(base: Any, path: Path, seen: tuple[Path, ...]) -> Recipe:
    if not isinstance(base, str):
        raise ValueError(f"base must be the name or the path of a recipe. Received: base={short(base)}")
    return _read(path.parent / base if base.endswith(".toml") else _path_of(base), seen)
