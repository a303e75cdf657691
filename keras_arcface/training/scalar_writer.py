"""Writer of scalars for TensorBoard."""

import os
from collections.abc import Mapping
from typing import Any

from keras_arcface import _optional


class ScalarWriter:
    """Writer of scalars by training step to TensorBoard event files.

    Args:
        directory: directory of the event files; created with the first scalar.
        required_by: caller's argument that requires TensorBoard, such as "log_dir". The error message starts with it.

    Raises:
        ModuleNotFoundError: if TensorBoard is not installed.
    """

    def __init__(self, directory: str | os.PathLike, required_by: str):
        _optional.require("tensorboard", "tensorboard", required_by)
        self.directory = directory
        self._writer: Any = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step to the disk."""
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.directory))
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def close(self) -> None:
        """Closes the current event file. A later `write` starts a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
