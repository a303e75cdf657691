"""Embedding of images in pipelines of Apache Beam."""

from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_arcface._arguments import check_integer
from keras_arcface._optional import optional_import

with optional_import("beam", "keras_arcface.beam"):
    from apache_beam.ml.inference.base import ModelHandler
    from apache_beam.ml.inference.base import PredictionResult

_SIGNATURE, _INPUT = "serve_bytes", "image_bytes"


class SavedModelHandler(ModelHandler):
    """Embeds images with a SavedModel in a pipeline of Apache Beam, for its transform `RunInference`.

    The SavedModel is one of `serving.export_saved_model`. Elements are encoded images (JPEG or PNG) as bytes. Wrap the
    handler in Beam's `KeyedModelHandler` for pairs of a key and an image. The handler of Beam for TensorFlow cannot
    read these models, because it loads them with Keras.

    Args:
        path: path of the directory of the SavedModel, the same on all workers.
        batch_size: largest number of images per call.

    Raises:
        FileNotFoundError: if the directory has no SavedModel.
        ModuleNotFoundError: if Apache Beam is not installed, the extra `beam`.
        ValueError: if `batch_size` is not at least 1. A worker raises it if the SavedModel has no signature
            `serve_bytes`.

    Examples:
        >>> import apache_beam
        >>> from apache_beam.ml.inference.base import RunInference
        >>> exported = serving.export_saved_model(embedder, "exported_for_beam")
        >>> files = [path.read_bytes() for path in Path("photos/ann").iterdir()]
        >>> with apache_beam.Pipeline() as pipeline:
        ...     results = (
        ...         pipeline
        ...         | apache_beam.Create(files)
        ...         | RunInference(SavedModelHandler(exported))
        ...         | apache_beam.Map(lambda result: print(result.inference["embedding"].shape))
        ...     )
        (8,)
        (8,)
        (8,)
        (8,)

    References:
        - [Apache Beam: RunInference](https://beam.apache.org/documentation/ml/overview/)
    """

    def __init__(self, path, batch_size: int = 64):
        check_integer("batch_size", batch_size, 1)
        self.path = Path(path).absolute()
        if not (self.path / "saved_model.pb").is_file():
            raise FileNotFoundError(
                "path must be the directory of a SavedModel, which contains saved_model.pb. "
                f"Received: path={str(path)!r}"
            )
        super().__init__(max_batch_size=batch_size)

    def load_model(self) -> Any:
        """Loads the SavedModel. Beam calls it once in each process."""
        model = tf.saved_model.load(str(self.path))
        if _SIGNATURE not in model.signatures:
            raise ValueError(
                f"{self.path} must have the signature {_SIGNATURE}, as every SavedModel of export_saved_model. "
                f"Received: the signatures {', '.join(sorted(model.signatures)) or 'none'}"
            )
        return model

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterator[PredictionResult]:
        """Embeds a batch of images.

        Args:
            batch: encoded images.
            model: result of `load_model`.
            inference_args: not used.

        Yields:
            One `PredictionResult` per image, whose `inference` is a dict of `embedding`, `(dim,)` float32 and
            L2-normalized, `norm`, a number, and `valid`, which is false for an image that cannot be decoded.
        """
        outputs = model.signatures[_SIGNATURE](**{_INPUT: tf.constant(list(batch), tf.string)})
        arrays = {name: output.numpy() for name, output in outputs.items()}
        for row, image in enumerate(batch):
            yield PredictionResult(image, {name: array[row] for name, array in arrays.items()}, str(self.path))

    def get_num_bytes(self, batch: Sequence[bytes]) -> int:
        """Returns the number of bytes of a batch, for Beam's metrics."""
        return int(np.sum([len(image) for image in batch]))
