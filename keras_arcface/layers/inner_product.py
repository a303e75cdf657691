"""Base class of heads whose logits are inner products of embeddings and centers that are not normalized."""

from keras import ops

from keras_arcface._arguments import check_integer
from keras_arcface.layers import vectors
from keras_arcface.layers.base import Head
from keras_arcface.layers.chunked import ChunkedReductions
from keras_arcface.layers.chunked import chunking
from keras_arcface.layers.chunked import reductions


class InnerProductHead(Head):
    """Base class of heads with logits that are proportional to the norms of the embeddings.

    Args:
        num_classes: number of classes, at least 2.
        chunk_size: number of classes per chunk of the loss, as in `MarginProduct`.
        max_cache_bytes: maximum size of the cosines that the loss caches, as in `MarginProduct`.
        matmul_dtype: dtype to which the inputs of matrix products are rounded, as in `MarginProduct`.
        **kwargs: arguments of `Head`.

    Attributes:
        normalizes_centers: if true, the centers are L2-normalized.
        centers: weight `(num_classes, dim)`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    normalizes_centers = False

    def __init__(self, num_classes, *, chunk_size=None, max_cache_bytes=2**28, matmul_dtype="float32", **kwargs):
        check_integer("num_classes", num_classes, 2)
        chunking.check(chunk_size, max_cache_bytes, matmul_dtype)
        super().__init__(**kwargs)
        self.num_classes = int(num_classes)
        self.chunk_size = None if chunk_size is None else int(chunk_size)
        self.max_cache_bytes, self.matmul_dtype = max_cache_bytes, matmul_dtype
        self._reductions = ChunkedReductions(self.make_reductions(), normalize=self.normalizes_centers)

    def __repr__(self):
        return self.describe("num_classes")

    def make_reductions(self):
        """Returns the reductions of the loss, by name. Their `cosines` are the logits of this head."""
        return {
            "log_sum_exp": reductions.LogSumExp(),
            "target": reductions.TargetCosine(),
            "highest": reductions.HighestCosine(),
        }

    def _reduce(self, rows, centers, labels):
        """Returns the results of the reductions over the logits `rows @ centers`, by name."""
        chunks = chunking.choose(rows.shape[0], centers.shape, self.chunk_size, self.max_cache_bytes, self.matmul_dtype)
        return self._reductions(rows, centers, labels, chunks, scale=1.0)

    def _target_cosines(self, labels, embeddings):
        """Returns the `(batch,)` target cosines, and the `(batch, dim)` target centers."""
        target_centers = ops.take(self.centers, labels, axis=0)
        cosines = ops.sum(vectors.unit(embeddings) * vectors.unit(target_centers), axis=-1)
        return ops.clip(cosines, -1.0, 1.0), target_centers

    def get_config(self):
        names = ("num_classes", "chunk_size", "max_cache_bytes", "matmul_dtype")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
