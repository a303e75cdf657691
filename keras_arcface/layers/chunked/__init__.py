"""Exact loss over many classes, without the `(batch, classes)` logits in memory.

`engine.py` iterates over chunks of the class centers, forward and backward. `reductions.py` contains reductions of the
cosines of a row, such as the log-sum-exp. `chunking.py` chooses the size of the chunks. `backends/` contains functions
that `keras.ops` lacks.
"""

from keras_arcface.layers.chunked.engine import ChunkedReductions
from keras_arcface.layers.chunked.engine import target_cosines

__all__ = ["ChunkedReductions", "target_cosines"]
