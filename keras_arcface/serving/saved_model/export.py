"""Embedder -> SavedModel for TensorFlow Serving."""

import json
import logging
import os
import shutil
from pathlib import Path

import keras
import numpy as np

from keras_arcface.data.alignment import TEMPLATE
from keras_arcface.data.alignment import TEMPLATE_SIZE
from keras_arcface.data.alignment import check_alignment
from keras_arcface.serving.deploy.batching_parameters import BATCH_SIZES
from keras_arcface.serving.layer_replacement import without_xla
from keras_arcface.serving.saved_model import metadata
from keras_arcface.serving.saved_model import verification as checking
from keras_arcface.serving.saved_model import warmup
from keras_arcface.serving.saved_model.signatures import make_embed
from keras_arcface.serving.saved_model.signatures import make_signatures

_logger = logging.getLogger(__name__)


def export_saved_model(
    embedder: keras.Model,
    directory,
    mirror: bool = False,
    compare: bool = False,
    freeze: bool = True,
    evaluation=None,
    alignment: str | None = None,
    warmup_batch_sizes=BATCH_SIZES,
    check: bool = True,
) -> Path:
    """Writes an embedder as a SavedModel that needs neither Keras nor this package to answer.

    Its signatures:

    | signature         | input                                            | outputs                     |
    |-------------------|--------------------------------------------------|-----------------------------|
    | `serving_default` | `images`: uint8 `(n, height, width, 3)` RGB      | `embedding`, `norm`         |
    | `serve_bytes`     | `image_bytes`: string `(n,)`, encoded images     | `embedding`, `norm`, `valid` |
    | `compare`         | `images_a`, `images_b`: as `images`              | `cosine`                    |
    | `describe`        | `request`: string `(n,)`, not looked at          | `metadata`                  |

    `embedding` is `(n, dim)` float32, L2-normalized; `norm` `(n,)` float32 is its length before that; `valid` `(n,)`
    says which images are served: the others have zeros for embedding and norm, and cost no other row anything. Images
    given as bytes are JPEG or PNG; of GIF and BMP, only those are served that the graph shows as `cv2.imread` does
    (docs/serving.md, "Image formats"). They may have any size up to 4096 x 4096 pixels and are resized in the graph;
    faces must be aligned as those of the training were. `cosine` `(n,)` compares the images of a row. `metadata`
    `(n,)` is a JSON text, the same in each row: what the model is, what it wants, and at which cosine two images are
    one person's.

    The same JSON lies in `assets.extra/metadata.json`; `assets.extra/tf_serving_warmup_requests` holds requests that a
    server answers before it takes others, and `assets.extra/warmup_answers.npz` the embedder's own answers. The
    directory appears under its name only after what was written has answered these requests alike in two clean
    processes (`check_saved_model`).

    Args:
        embedder: RGB pixels in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)`, with a known height
            and width.
        directory: where to write; it must not exist, or be empty.
        mirror: sum the embeddings of an image and of its mirror image, as published evaluations do; takes twice as
            long.
        compare: add the signature `compare`.
        freeze: write weights as constants of the graph, which a server can compute with ahead; False keeps them as
            variables (necessary beyond 2 GB).
        evaluation: what knows `at_far`, such as the `VerificationResult` of `verify`, or `Roc.pooled` of several: the
            thresholds for false accept rates of 1e-2 to 1e-6 go into the metadata, as far as it has impostor pairs to
            show them, each with a 95% confidence interval of its FAR. A warning names those that fewer than ten
            accepted impostors decide. The embeddings must be made as the export makes them:
            `embed_pairs(embedder, pairs, flip=mirror)`.
        alignment: how the faces of the training were aligned, for the metadata: "five_points" for faces as `data.align`
            gives them, "none" for faces that were not aligned, None where it is not known. `DatasetInfo.alignment` is
            what a dataset says of itself.
        warmup_batch_sizes: batch sizes of the warm-up requests, one for each of them and each signature; () for none.
            Those of `Batching` by default, as a server should know them all and refuses larger ones. They need
            tensorflow-serving-api; without it none are written, and a warning says so.
        check: whether to check what was written.

    Returns:
        The directory.

    Raises:
        FileExistsError: if there is something in the directory.
        ValueError: if Keras does not run on TensorFlow, the embedder's input or output have other shapes, the alignment
            cannot be that of its images, there are more warm-up requests than a server takes, or what was written does
            not answer as the embedder does.
    """
    directory = Path(directory)
    check_exportable(embedder, directory, alignment)
    image_size = metadata.image_size_of(embedder)
    names = ("serving_default", "serve_bytes", *(("compare",) if compare else ()), "describe")
    sizes = _checked_sizes(warmup_batch_sizes, len(names))
    requests = warmup.make_requests(names, image_size, sizes)
    aligned = _described(alignment, image_size)
    description = metadata.make_metadata(embedder, aligned, mirror, freeze, evaluation, names, sizes)

    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(embedder, unfinished, image_size, mirror, compare, freeze, description)
        answers = warmup.expected_answers(requests, _embed_function(embedder, mirror), description)
        _write_extras(unfinished, description, requests, answers)
        if check:
            checking.check_saved_model(unfinished, requests, answers)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if directory.exists():
        directory.rmdir()
    unfinished.rename(directory)
    return directory


def check_exportable(embedder: keras.Model, directory, alignment: str | None = None) -> None:
    """Raises what `export_saved_model` would raise before it writes anything: to be called before a training.

    Args:
        embedder, directory, alignment: as for `export_saved_model`.

    Raises:
        FileExistsError: if there is something in the directory.
        PermissionError: if the directory cannot be made.
        ValueError: if Keras does not run on TensorFlow, the embedder's input or output have other shapes, or the
            alignment cannot be that of its images.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists. Expected: a new or empty directory to export to")
    parent = next(path for path in directory.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise PermissionError(f"{directory} cannot be made: {parent} is no directory that can be written to")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is written by the TensorFlow backend of Keras: save the embedder as .keras and export it "
            f"under KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()!r}"
        )
    check_alignment(alignment, metadata.image_size_of(embedder))


def _described(alignment, image_size) -> dict:
    """How faces are aligned, and where it is by the template, this: `(5, 2)`, x and y in pixels of the images."""
    if alignment == "five_points":
        return {"method": alignment, "template": (TEMPLATE * (image_size[0] / TEMPLATE_SIZE)).tolist()}
    return {"method": alignment or "not stated"}


def _write(embedder, directory, image_size, mirror, compare, freeze, description):
    embedder = without_xla(embedder)
    archive = keras.export.ExportArchive()
    if not freeze:
        archive.track(embedder)
    embed = make_embed(embedder, image_size, mirror, freeze)
    for name, (function, specs) in make_signatures(embed, image_size, compare, description).items():
        archive.add_endpoint(name, function, specs)
    archive.write_out(str(directory), verbose=False)


def _write_extras(directory, description, requests, answers):
    path = directory / metadata.METADATA_FILE
    path.parent.mkdir()
    path.write_text(json.dumps(description, indent=2) + "\n")
    if not requests:
        return
    checking.save_answers(directory, requests, answers)
    try:
        warmup.write_requests(directory / warmup.WARMUP_FILE, requests)
    except ModuleNotFoundError:
        _logger.warning(
            "%s has no warm-up requests: they need tensorflow-serving-api, pip install 'keras-arcface[serving]'",
            directory.name,
        )


def _embed_function(embedder, mirror):
    # Not by `predict`, whose graph TensorFlow may have been told to compute in bfloat16 (`training.use_precision`).
    def embed(images):
        raw = np.asarray(embedder(images, training=False), np.float32)
        return raw + np.asarray(embedder(images[:, :, ::-1], training=False), np.float32) if mirror else raw

    return embed


def _checked_sizes(batch_sizes, signatures):
    sizes = tuple(batch_sizes)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"warmup_batch_sizes expects positive integers. Received: {batch_sizes}")
    if len(sizes) * signatures > warmup.MOST_RECORDS:
        raise ValueError(
            f"warmup_batch_sizes makes {len(sizes) * signatures} requests, {signatures} for each of {len(sizes)} "
            f"sizes. Expected: at most {warmup.MOST_RECORDS}, as TensorFlow Serving refuses a model with more"
        )
    return sizes
