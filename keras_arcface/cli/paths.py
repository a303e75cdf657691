"""Checks of paths, which are fast because they come before Keras and TensorFlow load."""

import tempfile
from pathlib import Path


def check_exists(*paths: Path) -> None:
    """Raises a FileNotFoundError for the first path that does not exist."""
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"No such file or directory: {path}")


def check_writable(directory: Path) -> None:
    """Raises an OSError if no file can be created in a directory, before a long computation whose results go there."""
    with tempfile.TemporaryFile(dir=directory):
        pass
