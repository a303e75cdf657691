"""Saving of an embedder in a folder with a model card."""

import dataclasses
import os
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_arcface._files import write_atomically
from keras_arcface._messages import cut
from keras_arcface._unfinished import move_directory
from keras_arcface._unfinished import unfinished_directory
from keras_arcface._weights_files import WeightsFile
from keras_arcface._weights_files import sha256_of
from keras_arcface.pretrained.model_card import model_card
from keras_arcface.pretrained.preset import Figure
from keras_arcface.pretrained.preset import License
from keras_arcface.pretrained.preset import Preset
from keras_arcface.pretrained.preset import Threshold
from keras_arcface.pretrained.preset_files import PRESET_FILE
from keras_arcface.pretrained.preset_files import to_toml

EMBEDDER_FILE = "embedder.keras"
CARD_FILE = "README.md"


def save_preset(
    embedder: keras.Model,
    folder: str | os.PathLike,
    name: str | None = None,
    description: str = "",
    network: str = "",
    trained_on: str = "",
    alignment: str = "",
    license: str = "",
    license_url: str = "",
    commercial_use: bool = True,
    results: Mapping[str, Any] | None = None,
    mirrored: bool = True,
    references: Iterable[str] = (),
) -> None:
    """Saves an embedder in a folder with a model card, for `load`.

    The folder contains `embedder.keras`, a plain Keras model; `preset.toml`, its description with its checksum; and
    `README.md`, the description as a model card that the Hugging Face Hub shows. The folder appears as a whole, or not
    at all.

    Args:
        embedder: model from RGB images in 0..255 `(batch, height, width, 3)` to embeddings `(batch, dim)`.
        folder: path of the new folder. An existing folder must be empty.
        name: name of the network; by default that of the folder.
        description: what the network is, in Markdown.
        network: name of the network; by default that of the backbone.
        trained_on: training data.
        alignment: "five_points" for the alignment of `data.align`, "none" for images as they are, or "" if unknown.
        license: license of the weights, an SPDX identifier such as "Apache-2.0" or the terms in a few words.
        license_url: address of the license.
        commercial_use: whether the license allows commercial use. If false, `load` requires `accept_license=True`. An
            embedder that was fine-tuned from weights without this permission has it neither.
        results: results of `evaluation.verify` or `evaluation.verify_templates` by the name of the evaluation set. The
            card contains their figures with 95% confidence intervals, and the thresholds of all sets together.
        mirrored: whether the embeddings of `results` contain those of mirror images, as `evaluation.embed_pairs` adds
            them by default.
        references: publications.

    Raises:
        FileExistsError: if the folder exists and is not empty, or is a file.
        OSError: if a file cannot be written. The message names it.
        ValueError: if the model is not an embedder of images of known size, or an argument is not valid.

    Examples:
        >>> pairs = data.PairSet.load("pairs.npz")
        >>> result = evaluation.verify(evaluation.embed_pairs(embedder, pairs), pairs.same, folds=2)
        >>> save_preset(embedder, "my_network", license="MIT", trained_on="my photos", results={"my pairs": result})
        >>> sorted(os.listdir("my_network"))
        ['README.md', 'embedder.keras', 'preset.toml']
        >>> load("my_network").output_shape
        (None, 8)
    """
    folder = Path(folder)
    image_size, dim = _shapes_of(embedder)
    figures, thresholds = _describe_results(results, mirrored) if results else ((), ())
    arguments = {
        "name": folder.resolve().name if name is None else name,
        "description": description,
        "network": network or _backbone_name(embedder),
        "trained_on": trained_on,
        "alignment": alignment,
        "license": License(license, license_url, commercial_use),
        "references": tuple(references),
    }
    preset = Preset(image_size=image_size, dim=dim, figures=figures, thresholds=thresholds, **arguments)
    if os.path.lexists(folder) and not (folder.is_dir() and not os.listdir(folder)):
        raise FileExistsError(f"folder must not exist, or be an empty folder. Received: {folder}")
    with unfinished_directory(folder) as directory:
        path = directory / EMBEDDER_FILE
        embedder.save(path)
        file = WeightsFile(EMBEDDER_FILE, sha256_of(path), path.stat().st_size)
        preset = dataclasses.replace(preset, files=(file,))
        write_atomically(directory / PRESET_FILE, to_toml(preset))
        write_atomically(directory / CARD_FILE, model_card(preset, embedder.count_params()))
        move_directory(directory, folder)


def _shapes_of(embedder: Any) -> tuple[tuple[int, int], int]:
    """Returns the image size and the length of the embeddings."""
    inputs, outputs = (getattr(embedder, name, None) for name in ("input_shape", "output_shape"))
    is_embedder = (
        isinstance(inputs, tuple) and isinstance(outputs, tuple) and len(inputs) == 4 and len(outputs) == 2
    ) and (None not in (*inputs[1:], *outputs[1:]) and inputs[3] == 3)
    received = f"{getattr(embedder, 'name', embedder)}: {inputs} -> {outputs}"
    if not is_embedder:
        raise ValueError(
            "embedder must map (batch, height, width, 3) to (batch, dim), with known height and width; of a "
            f"RecognitionModel, pass model.embedder. Received: {cut(received)}"
        )
    return inputs[1:3], outputs[1]


def _backbone_name(embedder: keras.Model) -> str:
    """Returns the name of the model inside of the embedder, as `make_embedder` builds it, or that of the embedder."""
    return next((layer.name for layer in embedder.layers if isinstance(layer, keras.Model)), embedder.name)


def _describe_results(results: Mapping[str, Any], mirrored: bool) -> tuple[tuple[Figure, ...], tuple[Threshold, ...]]:
    from keras_arcface.pretrained.evaluated import describe_results  # imports TensorFlow

    return describe_results(results, mirrored)
