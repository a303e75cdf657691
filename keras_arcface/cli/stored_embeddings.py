"""Directories of stored embeddings as arguments of commands, which need no embedder for them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface._optional import require
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.embedders import is_given
from keras_arcface.cli.embedders import is_runtime_model
from keras_arcface.cli.embedders import load_embedder

if TYPE_CHECKING:
    from keras_arcface.evaluation import StoredEmbeddings


def is_stored(path: Path) -> bool:
    """Returns whether a path is a directory that `keras-arcface embed` writes, which may be unfinished."""
    return (path / "embeddings.json").is_file() or any(path.glob("*-of-*.parquet"))


def check_stored(arguments: argparse.Namespace) -> None:
    """Checks that stored embeddings can be read, and the option `--embedder` if it is given, without Keras.

    Raises:
        FileNotFoundError: if the embedder does not exist.
        ModuleNotFoundError: if pyarrow is not installed.
        ValueError: if the embedder is not valid.
    """
    require("pyarrow", "parquet", "Reading embeddings")
    if is_given(arguments.embedder):
        check_embedder(arguments.embedder, arguments.accept_license)


def open_stored(path: Path, arguments: argparse.Namespace) -> StoredEmbeddings:
    """Opens stored embeddings of the option `--embedder`, or of any embedder if it is not given.

    Raises:
        FileNotFoundError: if the embeddings are not complete.
        ValueError: if a file is damaged, or the embeddings are of another embedder.
    """
    from keras_arcface.evaluation import StoredEmbeddings

    stored = StoredEmbeddings(path)
    if is_given(arguments.embedder):
        check_is_of(stored, arguments.embedder, arguments.accept_license)
    return stored


def check_is_of(stored: StoredEmbeddings, embedder: Path, accept_license: bool) -> None:
    """Raises a ValueError if stored embeddings are not of an embedder, which `check_embedder` accepts."""
    from keras_arcface.serving.embedder_facts import weights_sha256

    sha256 = "none, as it is not a file of weights"
    if not is_runtime_model(embedder):
        sha256 = weights_sha256(load_embedder(embedder, accept_license))
    if sha256 != stored.embedder_sha256:
        raise ValueError(
            f"{embedder} must be the embedder of {stored.directory}, with the checksum {stored.embedder_sha256}, or be "
            f"left out. Received: {sha256}"
        )
