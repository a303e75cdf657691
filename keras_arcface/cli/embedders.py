"""Embedders as arguments of commands: a published network, a folder of `save_preset`, or a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface.cli.paths import check_exists
from keras_arcface.pretrained import preset_files
from keras_arcface.pretrained.licenses import check_license

if TYPE_CHECKING:
    import keras

_WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
# The option has this object as its default. So `is_given` also recognizes a given `--embedder sface`.
_DEFAULT = Path("sface")
_SUFFIXES = (".keras", ".onnx", *_WEIGHTS_SUFFIXES)
_RUNTIME_SUFFIXES = (".xml", ".tflite")
_HELP = (
    "embedder.keras, a weights file (.onnx, .pth, .safetensors), a folder of save_preset, or a published network, see "
    "`keras-arcface presets`"
)


def add_embedder(parser: argparse.ArgumentParser) -> None:
    """Adds the argument `embedder` and the option `--accept-license`."""
    parser.add_argument("embedder", type=Path, metavar="EMBEDDER", help=_HELP)
    add_license_option(parser)


def add_embedder_option(parser: argparse.ArgumentParser) -> None:
    """Adds the options `--embedder` and `--accept-license`."""
    parser.add_argument("--embedder", type=Path, default=_DEFAULT, metavar="EMBEDDER", help=f"{_HELP}; default sface")
    add_license_option(parser)


def add_license_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-license", action="store_true", help="accept a license that does not allow commercial use"
    )


def is_given(embedder: Path) -> bool:
    """Returns whether the option `--embedder` is given."""
    return embedder is not _DEFAULT


def is_preset(embedder: str | Path) -> bool:
    """Returns whether an argument is the name of a published network, or a folder of `save_preset`."""
    return str(embedder) in preset_files.names() or (Path(embedder) / preset_files.PRESET_FILE).is_file()


def is_loaded_by_pretrained(model: str | Path) -> bool:
    """Returns whether `evaluate` loads a model by `pretrained.load`, and not in a runtime, as an ONNX file."""
    return is_preset(model) or Path(model).suffix in _WEIGHTS_SUFFIXES


def is_runtime_model(model: str | Path) -> bool:
    """Returns whether a model is a SavedModel, OpenVINO or LiteRT file, which a runtime evaluates instead of Keras."""
    return Path(model).suffix in _RUNTIME_SUFFIXES or (Path(model) / "saved_model.pb").is_file()


def check_embedder(embedder: Path, accept_license: bool, runtimes: bool = False) -> None:
    """Checks an argument without loading the embedder, and without Keras.

    Args:
        embedder: name of a published network, or path.
        accept_license: whether to accept a license that does not allow commercial use.
        runtimes: whether the command also takes the models of `is_runtime_model`.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it is no embedder, or its license must be accepted.
    """
    if is_preset(embedder):
        name = str(embedder)
        in_folder = name not in preset_files.names()
        check_license(
            preset_files.read(embedder / preset_files.PRESET_FILE) if in_folder else preset_files.get(name),
            accept_license,
        )
        return
    if not embedder.exists() and not embedder.suffix:
        raise FileNotFoundError(
            f"No such file or directory: {embedder}. Published networks: {', '.join(preset_files.names())}"
            f"{preset_files.suggestion(str(embedder))}"
        )
    check_exists(embedder)
    if embedder.suffix not in _SUFFIXES and not (runtimes and is_runtime_model(embedder)):
        others = "the directory of a SavedModel, an OpenVINO (.xml) or LiteRT (.tflite) file, " if runtimes else ""
        raise ValueError(
            "Expected a file that `embedder.save('embedder.keras')` wrote, a weights file "
            f"({', '.join(_SUFFIXES[1:])}), {others}or a folder that contains {preset_files.PRESET_FILE}. "
            f"Received: {embedder}"
        )


def load_embedder(embedder: str | Path, accept_license: bool) -> keras.Model:
    """Loads an embedder that `check_embedder` accepts."""
    from keras_arcface import pretrained

    return pretrained.load(embedder, accept_license)
