"""Steps that the exports to all runtimes share: validated arguments, checks of the result, and output files."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_arcface._arguments import check_choice
from keras_arcface._unfinished import move_files
from keras_arcface._unfinished import unfinished_directory
from keras_arcface.serving.convert.calibration import check_calibration
from keras_arcface.serving.convert.graph import make_graph
from keras_arcface.serving.convert.graph import metadata_json
from keras_arcface.serving.convert.parity import check_parity
from keras_arcface.serving.embedder_facts import image_size_of


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Conversion of an embedder for one runtime, with arguments that are validated before anything is converted.

    Args:
        runtime: name of the runtime, for errors.
        suffixes: suffix of the model, then the suffixes of additional files with the same name.
        precisions: precisions that the runtime supports.
        embedder: model to convert.
        path: path of the exported model.
        precision: requested precision.
        calibration: calibration images. They are checked for int8 only.
        mirror: whether to add the embedding of the mirror image before normalization.

    Raises:
        FileExistsError: if one of the files exists.
        ValueError: if an argument is not valid, or the backend is not TensorFlow.
    """

    runtime: str
    suffixes: Sequence[str]
    precisions: Sequence[str]
    embedder: keras.Model
    path: str | os.PathLike
    precision: str
    calibration: np.ndarray | None
    mirror: bool

    def __post_init__(self) -> None:
        _check_output(self.runtime, Path(self.path), self.suffixes)
        check_choice("precision", self.precision, self.precisions)
        image_size = image_size_of(self.embedder)
        if self.precision == "int8":
            check_calibration(self.calibration, image_size)

    def make_graph(self) -> keras.Model:
        """Returns the float32 model to convert, see `graph.make_graph`."""
        return make_graph(self.embedder, self.mirror)

    def metadata_json(self) -> str:
        """Returns the metadata of the exported file as JSON."""
        return metadata_json(self.embedder, self.mirror, self.precision)

    def check_parity(self, run: Callable[[np.ndarray], Mapping[str, np.ndarray]], precision: str) -> None:
        """Raises a ValueError if the embeddings of a converted model differ from those of the embedder.

        Args:
            run: function that runs the converted model: images -> `{"embedding": (n, dim), "norm": (n,)}`.
            precision: precision of the converted model. It is float32 for a model that is not rounded yet.
        """
        check_parity(run, self.embedder, Path(self.path), precision, self.mirror, self.calibration)

    @contextlib.contextmanager
    def temporary_output(self) -> Iterator[Path]:
        """Yields a temporary path for the model. At exit, the files next to it are moved to `path`.

        After an error, the files are removed instead.
        """
        path = Path(self.path)
        with unfinished_directory(path) as directory:
            yield directory / path.name
            move_files(directory, path)


def _check_output(runtime: str, path: Path, suffixes: Sequence[str]) -> None:
    """Checks the suffix of the path, that its files do not exist, and the backend."""
    if path.suffix != suffixes[0]:
        raise ValueError(f"path must end with {suffixes[0]} for a model of {runtime}. Received: path={str(path)!r}")
    for file in map(path.with_suffix, suffixes):
        if os.path.lexists(file):
            raise FileExistsError(f"The output file must not exist. Received: {file}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exports to {runtime} require the TensorFlow backend: save the embedder as .keras and export it under "
            f"KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()!r}"
        )
