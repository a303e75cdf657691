"""From images to requests, and from answers to embeddings."""

import dataclasses

import numpy as np

_UINT8 = ("serving_default", "images")
_BYTES = ("serve_bytes", "image_bytes")


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """What a server answered to `n` images.

    Attributes:
        embedding: `(n, dim)` float32, L2-normalized; zeros where an image could not be decoded.
        norm: `(n,)` float32, the lengths before that.
        valid: `(n,)` bool: which images could be decoded.
        version: of the model, one for all rows: embeddings of two versions cannot be compared.
    """

    embedding: np.ndarray
    norm: np.ndarray
    valid: np.ndarray
    version: int

    def __repr__(self) -> str:
        rows, dim = self.embedding.shape
        return f"Embeddings(images={rows}, dim={dim}, valid={int(np.sum(self.valid))}, version={self.version})"


def check_images(images, argument):
    """Images that can be sent: the array, or a list of bytes.

    Raises:
        ValueError: naming the argument and the row, if they are something else, or none.
    """
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"{argument}: expected a uint8 array (n, height, width, 3), RGB. "
                f"Received: {images.dtype} {images.shape}"
            )
    elif isinstance(images, bytes | bytearray | memoryview | str) or not hasattr(images, "__iter__"):
        raise ValueError(f"{argument}: expected an array or a sequence of bytes. Received: {type(images).__name__}")
    else:
        images = list(images)
        for row, image in enumerate(images):
            if not isinstance(image, bytes):
                raise ValueError(
                    f"{argument}[{row}]: expected an encoded image as bytes (pixels are given as one array). "
                    f"Received: {type(image).__name__}"
                )
    if len(images) == 0:
        raise ValueError(f"{argument}: expected one image or more. Received: none")
    return images


def join(first, second):
    """Two groups of images as one where that is possible, so that a pair is one request."""
    if isinstance(first, list) and isinstance(second, list):
        return [first + second]
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and first.shape == second.shape:
        return [np.concatenate([first, second])]
    return [first, second]


def make_batches(groups, batch_size):
    """`[(signature, {input: images})]`, at most `batch_size` images in each."""
    batches = []
    for images in groups:
        signature, name = _UINT8 if isinstance(images, np.ndarray) else _BYTES
        for start in range(0, len(images), batch_size):
            batches.append((signature, {name: images[start : start + batch_size]}))
    return batches


def read_answer(outputs, signature, inputs):
    """`(embedding, norm, valid)` from the outputs of a signature.

    Raises:
        ValueError: if they are not what an embedder of this package gives.
    """
    ((_, images),) = inputs.items()
    rows = len(images)
    needed = ["embedding", "norm"] + ["valid"] * (signature == _BYTES[0])
    if not set(needed) <= set(outputs):
        raise ValueError(f"expected the outputs {', '.join(needed)}. Received: {', '.join(sorted(outputs)) or 'none'}")
    embedding, norm = (np.asarray(outputs[name], np.float32) for name in needed[:2])
    valid = np.asarray(outputs.get("valid", [True] * rows), bool)
    if embedding.ndim != 2 or len(embedding) != rows or not norm.shape == valid.shape == (rows,):
        raise ValueError(
            f"expected {rows} rows. Received: embedding {embedding.shape}, norm {norm.shape}, valid {valid.shape}"
        )
    return embedding, norm, valid
