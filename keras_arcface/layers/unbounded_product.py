"""What heads share whose logits have no bound: the softmax over them, in blocks of classes."""

import math

import keras
from keras import ops

from keras_arcface.layers import blocks
from keras_arcface.layers import parts
from keras_arcface.layers import ways


class UnboundedProduct(keras.layers.Layer):
    """Base class of heads with logits that follow the lengths of embeddings: `loss_and_stats` is theirs to write."""

    normalized = False  # whether centers count as of norm 1

    def __init__(self, num_classes, *, block_size=None, logits_memory=2**28, products="float32", **kwargs):
        parts.check_integer("num_classes", num_classes, 2)
        ways.check(block_size, logits_memory, products)
        super().__init__(dtype=parts.float32_policy(kwargs.pop("dtype", None)), **kwargs)
        self.num_classes = int(num_classes)
        self.block_size = None if block_size is None else int(block_size)
        self.logits_memory, self.products = logits_memory, products

    def __new__(cls, *args, **kwargs):
        parts.check_positions(cls, args)
        return super().__new__(cls, *args, **kwargs)

    def __repr__(self):
        return parts.describe(self, "num_classes")

    def loss(self, labels, embeddings):
        """Cross-entropy: integers `(batch,)` and embeddings `(batch, dim)` -> `(batch,)` float32."""
        return self.loss_and_stats(labels, embeddings)[0]

    def _others(self, rows, centers, labels, mean=False):
        """`blocks.Others` of the logits `rows @ centers`."""
        way = ways.choose(
            rows.shape[0],
            centers.shape,
            math.inf,
            self.block_size,
            self.logits_memory,
            dtype=self.products,
            mean=mean,
            normalized=self.normalized,
        )
        return blocks.others(rows, centers, labels, 1.0, way)

    def _target_cosines(self, labels, embeddings):
        """`(batch,)` the cosines to the own centers, and `(batch, dim)` those centers."""
        own = ops.take(self.centers, labels, axis=0)
        cosines = ops.sum(parts.unit(embeddings) * parts.unit(own), axis=-1)
        return ops.clip(cosines, -1.0, 1.0), own

    def get_config(self):
        names = ("num_classes", "block_size", "logits_memory", "products")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
