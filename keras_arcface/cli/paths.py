"""Checks of paths, which are fast because they come before Keras and TensorFlow load."""

from pathlib import Path


def check_exists(*paths: Path) -> None:
    """Raises a FileNotFoundError for the first path that does not exist."""
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"No such file or directory: {path}")
