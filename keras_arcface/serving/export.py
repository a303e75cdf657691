"""Embedder -> SavedModel for TensorFlow Serving."""

import shutil
from pathlib import Path

import keras
import tensorflow as tf

from keras_arcface.serving.decoding import decode_rows

_SMALLEST_NORM = 1e-12


def export_saved_model(embedder: keras.Model, directory) -> Path:
    """Writes an embedder as a SavedModel that needs neither Keras nor this package to answer.

    Its signatures:

    | signature         | input                                            | outputs                     |
    |-------------------|--------------------------------------------------|-----------------------------|
    | `serving_default` | `images`: uint8 `(n, height, width, 3)` RGB      | `embedding`, `norm`         |
    | `serve_bytes`     | `image_bytes`: string `(n,)`, JPEG PNG GIF BMP   | `embedding`, `norm`, `valid` |

    `embedding` is `(n, dim)` float32, L2-normalised; `norm` `(n,)` float32 is its length before that; `valid` `(n,)`
    says which images could be decoded: the others have zeros for embedding and norm, and cost no other row anything.
    Images given as bytes may have any size up to 4096 x 4096 pixels and are resized in the graph; faces must be
    aligned as those of the training were.

    Args:
        embedder: RGB pixels in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)`, with a known height
            and width.
        directory: where to write; it must not exist, or be empty.

    Returns:
        The directory.

    Raises:
        FileExistsError: if there is something in the directory.
        ValueError: if Keras does not run on TensorFlow, or the embedder's input or output have other shapes.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists. Expected: a new or empty directory to export to")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is written by the TensorFlow backend of Keras: save the embedder as .keras and export it "
            f"under KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()!r}"
        )
    image_size = _image_size(embedder)

    def embed(images):
        raw = tf.cast(embedder(images, training=False), tf.float32)
        norm = tf.norm(raw, axis=-1)
        return {"embedding": raw / tf.maximum(norm, _SMALLEST_NORM)[:, tf.newaxis], "norm": norm}

    def embed_bytes(image_bytes):
        images, valid = decode_rows(image_bytes, image_size)
        rows = tf.shape(images)[0]
        # Some of TensorFlow's CPU kernels refuse an empty batch: it gets one row, which is cut off again.
        outputs = embed(tf.pad(images, [[0, tf.cast(rows == 0, tf.int32)], [0, 0], [0, 0], [0, 0]]))
        return {
            "embedding": tf.where(valid[:, tf.newaxis], outputs["embedding"][:rows], 0.0),
            "norm": tf.where(valid, outputs["norm"][:rows], 0.0),
            "valid": valid,
        }

    archive = keras.export.ExportArchive()
    archive.track(embedder)
    archive.add_endpoint("serving_default", embed, [tf.TensorSpec((None, *image_size, 3), tf.uint8, "images")])
    archive.add_endpoint("serve_bytes", embed_bytes, [tf.TensorSpec((None,), tf.string, "image_bytes")])
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    archive.write_out(str(unfinished), verbose=False)
    if directory.exists():
        directory.rmdir()
    unfinished.rename(directory)
    return directory


def _image_size(embedder: keras.Model) -> tuple[int, int]:
    try:
        inputs, outputs = tuple(embedder.input_shape), tuple(embedder.output_shape)
    except AttributeError as error:
        raise ValueError(
            "export_saved_model expects an embedder with one input and one output; of a RecognitionModel, pass "
            f"model.embedder. Received: {embedder.name!r}, a {type(embedder).__name__}"
        ) from error
    if len(inputs) != 4 or None in inputs[1:] or inputs[3] != 3 or len(outputs) != 2:
        raise ValueError(
            "export_saved_model expects an embedder, (batch, height, width, 3) -> (batch, dim), of known height and "
            f"width. Received: {embedder.name!r}, {inputs} -> {outputs}"
        )
    return inputs[1:3]
