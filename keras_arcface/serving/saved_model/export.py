"""Export of an embedder as a SavedModel for TensorFlow Serving."""

import json
import logging
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_arcface._alignment import TEMPLATE
from keras_arcface._alignment import TEMPLATE_SIZE
from keras_arcface._alignment import check_alignment
from keras_arcface._choices import BATCH_SIZES
from keras_arcface._optional import install_hint
from keras_arcface._unfinished import move_directory
from keras_arcface._unfinished import unfinished_directory
from keras_arcface.serving.embedder_facts import image_size_of
from keras_arcface.serving.layer_replacement import without_xla
from keras_arcface.serving.saved_model import export_check
from keras_arcface.serving.saved_model import metadata
from keras_arcface.serving.saved_model import warmup
from keras_arcface.serving.saved_model.signatures import make_embed
from keras_arcface.serving.saved_model.signatures import make_signatures

_logger = logging.getLogger(__name__)


def export_saved_model(
    embedder: keras.Model,
    directory: str | os.PathLike,
    mirror: bool = False,
    compare: bool = False,
    freeze: bool = True,
    evaluation: metadata.Evaluation | None = None,
    alignment: str | None = None,
    warmup_batch_sizes: Iterable[int] = BATCH_SIZES,
    check: bool = True,
) -> Path:
    """Writes an embedder as a SavedModel that runs without Keras and without this package.

    TensorFlow Serving loads it; `publish` copies it to the server's directory as a new version, and `FaceClient` sends
    requests to it. Its signatures:

    | signature         | input                                            | outputs                     |
    |-------------------|--------------------------------------------------|-----------------------------|
    | `serving_default` | `images`: uint8 `(n, height, width, 3)` RGB      | `embedding`, `norm`         |
    | `serve_bytes`     | `image_bytes`: string `(n,)`, encoded images     | `embedding`, `norm`, `valid` |
    | `compare`         | `images_a`, `images_b`: as `images`              | `cosine`                    |
    | `describe`        | `request`: string `(n,)`, ignored                | `metadata`                  |

    - `embedding`: `(n, dim)` float32, L2-normalized. `norm`: `(n,)` float32, the norm before normalization.
    - `valid`: `(n,)` bool mask of the decoded images. Rows of other images contain zeros as embedding and norm, and do
      not affect the rest of the batch. Encoded images are JPEG or PNG files, or BMP files for which the graph returns
      the pixels of `cv2.imread` (docs/serving.md, "Image formats"), of up to 4096 x 4096 pixels. The graph resizes
      them. Faces must be aligned as in training.
    - `cosine`: `(n,)`, cosine similarity of the images in each row.
    - `metadata`: `(n,)`, the same JSON in each row: facts about the model, required pixels, thresholds.

    The same JSON is in `assets.extra/metadata.json`. `assets.extra/tf_serving_warmup_requests` contains warm-up
    requests, which a server runs before it serves the model, and `assets.extra/warmup_answers.npz` the outputs of the
    embedder. The directory is renamed to its final name only if the export returns these outputs in two separate
    processes (see `check_saved_model`).

    Args:
        embedder: model that maps RGB pixels in 0..255 `(batch, height, width, 3)` to embeddings `(batch, dim)`, with
            known height and width.
        directory: path of the SavedModel. The directory must be empty or not exist.
        mirror: whether to add the embedding of the mirror image, as in published evaluations. It doubles the time.
        compare: whether to include the signature `compare`.
        freeze: whether to store the weights as constants of the graph, which allows more optimization. If false, they
            remain variables, which is necessary above 2 GB.
        evaluation: object with `at_far`, such as the `VerificationResult` of `verify`, or a `Roc`. Its thresholds
            for false accept rates of 1e-2 to 1e-6, with the 95% confidence intervals of the rates, are stored in the
            metadata if there are enough impostor pairs. A warning lists thresholds that depend on fewer than ten
            accepted impostors. Compute the embeddings as in the export:
            `embed_pairs(embedder, pairs, flip=mirror)`.
        alignment: alignment of the training faces, for the metadata: "five_points" (the alignment of `data.align`),
            "none", or None if unknown. `DatasetInfo.alignment` is the alignment of a dataset.
        warmup_batch_sizes: batch sizes of the warm-up requests, one request for each size and signature; () for none.
            The default is that of `Batching`, because a server should be warm for all its batch sizes, and refuses
            larger requests. Without tensorflow-serving-api no requests are written, and a warning is logged.
        check: whether to verify the export with `check_saved_model`.

    Returns:
        Path of the directory.

    Raises:
        BlockingIOError: if another process exports to the directory.
        FileExistsError: if the directory is not empty or is a link.
        OSError: if the files cannot be written, for example because the disk is full. No file remains.
        PermissionError: if the directory cannot be created.
        ValueError: if the backend is not TensorFlow, the input or output of the embedder has a different shape, the
            alignment is unknown or does not match its images, a warm-up batch size is not a positive integer, there are
            more warm-up requests than a server accepts, or the outputs of the export differ from those of the embedder.

    Examples:
        >>> export_saved_model(embedder, "models/export", alignment="five_points", warmup_batch_sizes=(1, 8))
        PosixPath('models/export')
        >>> embed = load_embedder("models/export")
        >>> bool(np.allclose(embed(images), embedder.predict(images, verbose=0), atol=1e-4))
        True

        With the thresholds of an evaluation, for `FaceClient.threshold`:

            pairs = data.PairSet.load("lfw.bin")
            result = evaluation.verify(evaluation.embed_pairs(embedder, pairs, flip=True), pairs.same)
            export_saved_model(embedder, "models/export", mirror=True, evaluation=result)
    """
    directory = Path(directory)
    check_exportable(embedder, directory, alignment)
    image_size = image_size_of(embedder)
    names = ("serving_default", "serve_bytes", *(("compare",) if compare else ()), "describe")
    sizes = _check_batch_sizes(warmup_batch_sizes, len(names))
    requests = warmup.make_requests(names, image_size, sizes)
    described_alignment = _describe_alignment(alignment, image_size)
    description = metadata.make_metadata(embedder, described_alignment, mirror, freeze, evaluation, names, sizes)

    with unfinished_directory(directory) as temporary:
        _write(embedder, temporary, image_size, mirror, compare, freeze, description)
        outputs = warmup.expected_outputs(requests, _embed_function(embedder, mirror), description)
        _write_assets(temporary, description, requests, outputs)
        if check:
            export_check.check_saved_model(temporary, requests, outputs)
        move_directory(temporary, directory)
    return directory


def check_exportable(embedder: keras.Model, directory: str | os.PathLike, alignment: str | None = None) -> None:
    """Raises the errors that `export_saved_model` raises before it writes files. Call it before a long training.

    Args:
        embedder: model that will be exported. It needs no trained weights.
        directory: path of the SavedModel.
        alignment: alignment of the training faces: "five_points", "none", or None if unknown.

    Raises:
        FileExistsError: if the directory is not empty or is a link.
        PermissionError: if the directory cannot be created.
        ValueError: if the backend is not TensorFlow, the input or output of the embedder has a different shape, or the
            alignment is unknown or does not match its images.

    Examples:
        >>> check_exportable(embedder, "models/export")
        >>> check_exportable(embedder, "photos")
        Traceback (most recent call last):
        FileExistsError: directory must not exist or must be empty. Received: directory='photos'
    """
    directory = Path(directory)
    if directory.is_symlink() or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
        raise FileExistsError(f"directory must not exist or must be empty. Received: directory={str(directory)!r}")
    parent = next(path for path in directory.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise PermissionError(
            f"directory must be in a writable directory. Received: directory={str(directory)!r}, in {parent}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "export_saved_model requires the TensorFlow backend: save the embedder as .keras and export it under "
            f"KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()!r}"
        )
    check_alignment(alignment, image_size_of(embedder))


def _describe_alignment(alignment: str | None, image_size: tuple[int, int]) -> dict[str, Any]:
    """Returns the alignment for the metadata. The template has shape `(5, 2)`, with x and y in pixels of the images."""
    if alignment == "five_points":
        return {"method": alignment, "template": (TEMPLATE * (image_size[0] / TEMPLATE_SIZE)).tolist()}
    return {"method": alignment or "not stated"}


def _write(
    embedder: keras.Model,
    directory: Path,
    image_size: tuple[int, int],
    mirror: bool,
    compare: bool,
    freeze: bool,
    description: dict[str, Any],
) -> None:
    embedder = without_xla(embedder)
    archive = keras.export.ExportArchive()
    if not freeze:
        archive.track(embedder)
    embed = make_embed(embedder, image_size, mirror, freeze)
    for name, (function, specs) in make_signatures(embed, image_size, compare, description).items():
        archive.add_endpoint(name, function, specs)
    archive.write_out(str(directory), verbose=False)


def _write_assets(
    directory: Path,
    description: dict[str, Any],
    requests: Sequence[warmup.Request],
    outputs: Sequence[warmup.Outputs],
) -> None:
    """Writes the files in the folder `assets.extra` of a SavedModel."""
    path = directory / metadata.METADATA_FILE
    path.parent.mkdir()
    path.write_text(json.dumps(description, indent=2) + "\n")
    if not requests:
        return
    export_check.save_expected_outputs(directory, requests, outputs)
    try:
        warmup.write_requests(directory / warmup.WARMUP_FILE, requests)
    except ModuleNotFoundError:
        hint = install_hint("tensorflow-serving-api", "serving", "Writing them")
        _logger.warning("The export has no warm-up requests. %s", hint)


def _embed_function(embedder: keras.Model, mirror: bool) -> Callable[[np.ndarray], np.ndarray]:
    # `predict` is not used because its graph may compute in bfloat16 under `training.use_precision`.
    def embed(images):
        raw = np.asarray(embedder(images, training=False), np.float32)
        return raw + np.asarray(embedder(images[:, :, ::-1], training=False), np.float32) if mirror else raw

    return embed


def _check_batch_sizes(batch_sizes: Iterable[int], num_signatures: int) -> tuple[int, ...]:
    sizes = tuple(batch_sizes)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"warmup_batch_sizes must be positive integers. Received: warmup_batch_sizes={batch_sizes}")
    if len(sizes) * num_signatures > warmup.MAX_REQUESTS:
        raise ValueError(
            f"warmup_batch_sizes must give at most {warmup.MAX_REQUESTS} requests, or TensorFlow Serving does not load "
            f"the model. Received: warmup_batch_sizes of {len(sizes)} sizes for {num_signatures} signatures"
        )
    return sizes
