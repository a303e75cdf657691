"""Embeddings in the responses of a server."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_arcface.serving.client.answer_checks import check_embeddings


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of `n` images, which one version of a model computed. `FaceClient.embed` returns them.

    Attributes:
        embedding: `(n, dim)` float32, L2-normalized. Rows of images that could not be decoded are zero.
        norm: `(n,)` float32, the norm of each embedding before normalization.
        valid: `(n,)` bool mask of the images that could be decoded.
        version: version of the model, the same for all rows. Embeddings of two versions cannot be compared.

    Examples:
        The server could not decode the last of three images:

        >>> rows = np.array([[0.6, 0.8], [1.0, 0.0], [0.0, 0.0]], "float32")
        >>> faces = Embeddings(rows, norm=np.array([9.5, 7.1, 0.0]), valid=np.array([True, True, False]), version=3)
        >>> faces
        Embeddings(images=3, dim=2, valid=2, version=3)
        >>> faces.embedding[faces.valid] @ faces.embedding[0]  # cosines to the first face
        array([1. , 0.6], dtype=float32)
    """

    embedding: np.ndarray
    norm: np.ndarray
    valid: np.ndarray
    version: int

    def __repr__(self) -> str:
        rows, dim = self.embedding.shape
        return f"Embeddings(images={rows}, dim={dim}, valid={int(np.sum(self.valid))}, version={self.version})"


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Returns the rows of all parts in order.

    Raises:
        ValueError: if the parts come from several versions, or have embeddings of several sizes.
    """
    sizes, versions = {part.embedding.shape[1] for part in parts}, {part.version for part in parts}
    if len(sizes) != 1 or len(versions) != 1:
        raise ValueError(
            "expected embeddings of one size from one version in a call. "
            f"Received: sizes {sorted(sizes)}, versions {sorted(versions)}"
        )
    columns = ([getattr(part, name) for part in parts] for name in ("embedding", "norm", "valid"))
    embedding, norm, valid = map(np.concatenate, columns)
    return Embeddings(embedding, norm, valid, parts[-1].version)


def read_outputs(outputs: Mapping[str, Any], version: int) -> Embeddings:
    """Converts the outputs of a signature to `Embeddings`.

    Args:
        outputs: `{name: array}`, with shapes that the transport has checked. Without `valid`, all rows are valid.
        version: version of the model that computed the outputs.

    Raises:
        ValueError: if the values are not those of an embedder exported by this package.
    """
    embedding, norm = outputs["embedding"], outputs["norm"]
    valid = outputs.get("valid", np.ones(len(embedding), bool))
    check_embeddings(embedding, norm, valid)
    return Embeddings(embedding, norm, valid, version)
