"""What the checks of one protocol share: the model on the server, the export, the images, and answers."""

import functools
import time
from typing import Any

import numpy as np

from keras_arcface.serving.client.errors import ServingError
from keras_arcface.serving.conformance.answer_causes import explain_embeddings
from keras_arcface.serving.conformance.answer_causes import explain_weights
from keras_arcface.serving.conformance.export_reference import ExportReference
from keras_arcface.serving.conformance.remote_model import RemoteModel
from keras_arcface.serving.conformance.sample_files import SampleFile
from keras_arcface.serving.conformance.sample_files import served_files
from keras_arcface.serving.deploy.batching_parameters import BATCH_SIZES
from keras_arcface.serving.saved_model.warmup import make_images

IMAGES = 8
REQUIRED_SIGNATURES = ("serving_default", "serve_bytes", "describe")
_SEED = 7


class Context:
    """Data of the checks of one protocol. Answers are requested when they are first needed.

    Args:
        remote: model on the server, connected.
        export: the SavedModel that the server should serve, or None.
        tolerance: allowed difference of embeddings.

    Attributes:
        first_seconds: duration of the first request of one image, 0 before it.
        unusable: `{signature: reason}` of the signatures that are missing or do not answer.
    """

    def __init__(self, remote: RemoteModel, export: ExportReference | None, tolerance: float):
        self.remote = remote
        self.export = export
        self.tolerance = tolerance
        self.first_seconds = 0.0
        self.unusable = {
            name: f"the served model has no signature {name}"
            for name in (*REQUIRED_SIGNATURES, "compare")
            if name not in remote.signatures
        }

    @functools.cached_property
    def metadata(self) -> dict[str, Any] | None:
        """Metadata of the served model, or None if the server does not return them."""
        if "describe" in self.unusable:
            return None
        try:
            return self.remote.metadata()
        except ServingError:
            return None

    @property
    def facts(self) -> dict[str, Any]:
        """Metadata of the export, otherwise of the served model; empty if both are unknown."""
        if self.export is not None and self.export.metadata:
            return self.export.metadata
        return self.metadata or {}

    @property
    def expected_signatures(self) -> set[str]:
        """Names of the signatures that the served model must have."""
        if self.export is not None:
            return {name for name in self.export.signatures if not name.startswith("__")}
        stated = self.facts.get("signatures")
        is_list = isinstance(stated, list) and all(isinstance(name, str) for name in stated)
        return {*REQUIRED_SIGNATURES, *(stated if is_list else ())}  # type: ignore[misc]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes that the server must accept: those of the warm-up, or the default ones of a server."""
        sizes = self.facts.get("warmup_batch_sizes")
        is_valid = isinstance(sizes, list) and all(type(size) is int and 1 <= size <= 512 for size in sizes)
        return tuple(sorted({1, *(sizes if is_valid and sizes else BATCH_SIZES)}))  # type: ignore[misc]

    @functools.cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the served model states, otherwise those of the export."""
        signature = self.remote.signatures.get("serving_default")
        shape = signature.inputs["images"].shape if signature and "images" in signature.inputs else None
        if shape and len(shape) == 4 and shape[1] and shape[2]:
            return shape[1], shape[2]
        if self.export is not None:
            return self.export.image_size
        stated = self.facts.get("image_size")
        if isinstance(stated, list) and len(stated) == 2 and all(type(side) is int and side > 0 for side in stated):
            return stated[0], stated[1]
        return 112, 112

    @functools.cached_property
    def images(self) -> np.ndarray:
        """Images of the requests, uint8 `(8, height, width, 3)`, with different left and right halves and colors."""
        return make_images(_SEED, IMAGES, self.image_size)

    @functools.cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """Outputs of `serving_default` for `images`. Before, the first image is sent alone, to measure its duration."""
        started = time.perf_counter()
        self.remote.embed(self.images[:1])
        self.first_seconds = time.perf_counter() - started
        return self.remote.embed(self.images)

    @functools.cached_property
    def files(self) -> list[SampleFile]:
        """An image in all formats that are served."""
        return served_files(self.images[0])

    @functools.cached_property
    def cause(self) -> str:
        """Cause of embeddings that differ from the export's, or an empty string."""
        export = self.export
        if export is None or self.image_size != export.image_size:
            return ""
        try:
            return explain_embeddings(
                self.images, self.outputs, export, self.remote.embed, self.tolerance, self.metadata
            )
        except ServingError:
            return self.other_export

    @property
    def other_export(self) -> str:
        """Which other export the server serves, or an empty string."""
        return "" if self.export is None else explain_weights(self.metadata, self.export)
