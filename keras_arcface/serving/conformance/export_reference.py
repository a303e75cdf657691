"""The SavedModel that a server should serve, as the reference for its answers."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_arcface.serving.client.answer_checks import OUTPUTS
from keras_arcface.serving.client.transport import Signature
from keras_arcface.serving.client.transport import TensorSpec
from keras_arcface.serving.saved_model.metadata import METADATA_FILE
from keras_arcface.serving.saved_model.metadata import read_metadata
from keras_arcface.serving.saved_model.warmup import WARMUP_FILE
from keras_arcface.serving.saved_model.warmup import Request
from keras_arcface.serving.saved_model.warmup import read_requests

_INPUTS = {"serving_default": "images", "serve_bytes": "image_bytes", "describe": "request"}


class ExportReference:
    """SavedModel on this machine, loaded with TensorFlow.

    Args:
        directory: SavedModel, or a base path with numbered versions, of which the newest is used.

    Attributes:
        directory: path of the SavedModel.
        version: version number that the name of the directory states, or None.
        metadata: content of its metadata file, empty if it does not exist.

    Raises:
        FileNotFoundError: if the directory contains no SavedModel.
        ValueError: if the SavedModel cannot be loaded or is not an export of this package, or its metadata is damaged.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = _find_saved_model(Path(directory))
        name = self.directory.absolute().name
        self.version = int(name) if name.isdecimal() and name.isascii() else None
        self.metadata = read_metadata(self.directory) if (self.directory / METADATA_FILE).is_file() else {}
        try:
            self._model = tf.saved_model.load(str(self.directory))
        except (tf.errors.OpError, OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.directory} must be a SavedModel that this TensorFlow loads. Received: {error}"
            ) from error
        self.signatures = {name: _describe(function) for name, function in self._model.signatures.items()}
        self._check_signatures()

    @property
    def has_warmup_requests(self) -> bool:
        """Whether the SavedModel contains warm-up requests for a server."""
        return (self.directory / WARMUP_FILE).is_file()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        shape = self.signatures["serving_default"].inputs["images"].shape or ()
        return shape[1], shape[2]  # type: ignore[return-value]

    def read_warmup_requests(self) -> list[Request]:
        """Returns the warm-up requests for a server, an empty list if there are none.

        Raises:
            ValueError: if the file is damaged.
        """
        return read_requests(self.directory / WARMUP_FILE) if self.has_warmup_requests else []

    def run(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature for arrays or lists of bytes."""
        outputs = self._model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def embed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `embedding` and `norm` of uint8 images `(n, height, width, 3)`."""
        return self.run("serving_default", images=images)

    def version_with(self, metadata: dict[str, Any]) -> int | None:
        """Returns the version in the same base path that has this metadata, or None."""
        for path in self.directory.absolute().parent.iterdir():
            if path.name.isdecimal() and (path / METADATA_FILE).is_file():
                try:
                    if identity(read_metadata(path)) == identity(metadata):
                        return int(path.name)
                except (OSError, ValueError):
                    continue
        return None

    def _check_signatures(self) -> None:
        for name, tensor in _INPUTS.items():
            signature = self.signatures.get(name, Signature({}, {}))
            if tensor not in signature.inputs or not OUTPUTS[name].keys() <= signature.outputs.keys():
                raise ValueError(
                    "export must be a SavedModel that export_saved_model wrote, with the signatures "
                    f"{', '.join(_INPUTS)}. Received: {self.directory}, with the signatures "
                    f"{', '.join(sorted(self.signatures)) or 'none'}, of which {name} is missing or another one"
                )


def identity(metadata: dict[str, Any]) -> tuple:
    """Returns what distinguishes an export from other exports."""
    return tuple(metadata.get(name) for name in ("weights_sha256", "created", "name", "mirrored"))


def _find_saved_model(directory: Path) -> Path:
    """Returns a SavedModel: the directory itself, or the newest version of a base path."""
    if (directory / "saved_model.pb").is_file():
        return directory
    children = directory.iterdir() if directory.is_dir() else ()
    versions = [child for child in children if child.name.isdecimal() and (child / "saved_model.pb").is_file()]
    if not versions:
        raise FileNotFoundError(
            "export must be a SavedModel (a directory with saved_model.pb) or a base path with numbered versions. "
            f"Received: export={str(directory)!r}"
        )
    return max(versions, key=lambda path: int(path.name))


def _describe(function: Any) -> Signature:
    def specs(tensors):
        return {
            name: TensorSpec(spec.dtype.name, None if spec.shape.rank is None else tuple(spec.shape.as_list()))
            for name, spec in tensors.items()
        }

    return Signature(specs(function.structured_input_signature[1]), specs(function.structured_outputs))
