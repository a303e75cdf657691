"""Types and functions that the protocols share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation

Models = dict[str, Callable]
Say = Callable[..., None]


def embed_labeled(embed: Callable, path: Path, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embeddings and labels of all images of a source or dataset."""
    if (path / "dataset.json").is_file() and arguments.size is None:
        return evaluation.embed_dataset(embed, data.load_dataset(path, arguments.batch_size), arguments.flip)
    source = data.open_source(path)
    return embed_all(embed, source, arguments), source.labels


def embed_all(
    embed: Callable, images: Any, arguments: argparse.Namespace, name_of: Callable[[int], str] | None = None
) -> np.ndarray:
    return evaluation.embed_images(
        *(embed, images, arguments.flip, arguments.batch_size),
        name_of=name_of,
        size=arguments.size,
        resize=arguments.resize,
    )


def describe_size(arguments: argparse.Namespace) -> str:
    """Returns a sentence about the preprocessing of images, or an empty text if they are not resized."""
    if arguments.size is None:
        return ""
    height, width = arguments.size
    if arguments.resize is None:
        return f" Images resized to {height} x {width}."
    return f" Images resized to a shorter side of {arguments.resize}, and cropped to the central {height} x {width}."


def show(name: str, table: evaluation.Table, note: str, report: evaluation.Report, say: Say) -> None:
    say(note)
    say(table)
    report.add_table(name, table, note)
