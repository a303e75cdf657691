"""Embeddings in the responses of a server."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of `n` images, which one version of a model computed.

    Attributes:
        embedding: `(n, dim)` float32, L2-normalized. Rows of images that could not be decoded are zero.
        norm: `(n,)` float32, the norm of each embedding before normalization.
        valid: `(n,)` bool mask of the images that could be decoded.
        version: version of the model, the same for all rows. Embeddings of two versions cannot be compared.
    """

    embedding: np.ndarray
    norm: np.ndarray
    valid: np.ndarray
    version: int

    def __repr__(self) -> str:
        rows, dim = self.embedding.shape
        return f"Embeddings(images={rows}, dim={dim}, valid={int(np.sum(self.valid))}, version={self.version})"


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Returns the rows of all parts in order. The version is that of the last part."""
    columns = ([getattr(part, name) for part in parts] for name in ("embedding", "norm", "valid"))
    embedding, norm, valid = map(np.concatenate, columns)
    return Embeddings(embedding, norm, valid, parts[-1].version)


def read_outputs(outputs: Mapping[str, Any], rows: int, has_valid: bool, version: int) -> Embeddings:
    """Converts the outputs of a signature to `Embeddings`.

    Args:
        outputs: `{name: array or nested list}`.
        rows: number of images in the request.
        has_valid: whether the signature has the output `valid`. If false, all rows are valid.
        version: version of the model that computed the outputs.

    Raises:
        ValueError: if names or shapes are not those of an embedder exported by this package.
    """
    names = ["embedding", "norm"] + ["valid"] * has_valid
    if not set(names) <= set(outputs):
        raise ValueError(f"expected the outputs {', '.join(names)}. Received: {', '.join(sorted(outputs)) or 'none'}")
    embedding, norm = (np.asarray(outputs[name], np.float32) for name in names[:2])
    valid = np.asarray(outputs["valid"] if has_valid else [True] * rows, bool)
    if embedding.ndim != 2 or len(embedding) != rows or not norm.shape == valid.shape == (rows,):
        raise ValueError(
            f"expected {rows} rows. Received: embedding {embedding.shape}, norm {norm.shape}, valid {valid.shape}"
        )
    return Embeddings(embedding, norm, valid, version)
