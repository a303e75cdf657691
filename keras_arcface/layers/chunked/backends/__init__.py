"""What `keras.ops` lacks, in one module per Keras backend that is imported when it is needed."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import keras


class Backend(Protocol):
    """The functions that each backend module has. Tensors and variables are those of the backend, dtype float32."""

    def read(self, variable: Any) -> Any:
        """Returns a variable's value as a tensor, as `keras.ops.custom_gradient` requires."""

    def jit(self, function: Callable, matmul_dtype: str) -> Callable:
        """Compiles a function of nested tensors that uses `matmul` with a dtype. It is not differentiated."""

    def fuse(self, function: Callable) -> Callable:
        """Compiles a part of a compiled function, so that its element-wise steps pass over the memory once."""

    def chunk_limits(self) -> tuple[int, int]:
        """Returns how many bytes the cosines of a chunk may take, and how many classes it may have."""

    def repeat(self, count: int, body: Callable, carry: tuple) -> tuple:
        """Computes `carry = body(i, *carry)` for i in [0, count), strictly one after another to save memory."""

    def matmul(
        self, first: Any, second: Any, dtype: str, transpose_first: bool = False, transpose_second: bool = False
    ) -> Any:
        """Multiplies matrices, or stacks of them, with entries rounded to `dtype`; sums are float32 where possible."""

    def new_cache(self, shape: tuple) -> Any:
        """Returns space for `shape[0]` tensors of shape `shape[1:]`."""

    def cache_put(self, cache: Any, index: Any, value: Any) -> Any:
        """Returns the cache with a tensor at an index."""

    def cache_get(self, cache: Any, index: Any, shape: tuple) -> Any:
        """Returns the tensor at an index of the cache."""

    def empty(self, shape: tuple, like: Any) -> Any:
        """Returns an array with undefined content on the device of `like`; every entry must be written."""

    def write_rows(self, array: Any, start: Any, rows: Any) -> Any:
        """Returns the array `(shards, n, dim)` with `(shards, m, dim)` rows from `start` on, in place if possible."""

    def gather_replicas(self, values: Any) -> Any:
        """Returns the values of all replicas, concatenated along the first axis; the same on every replica."""

    def local_part(self, values: Any, count: Any) -> Any:
        """Returns this replica's `count` rows of values for all replicas."""

    def take_rows(self, variable: Any, rows: Any, shards: int) -> Any:
        """Returns rows of a large variable without a copy of it: equally many of each shard, in order."""

    def put_rows(self, variable: Any, rows: Any, values: Any, shards: int) -> None:
        """Writes rows of a large variable; all replicas write the same values."""

    def assign(self, variable: Any, value: Any) -> None:
        """Writes a variable; all replicas write the same value."""


@functools.cache
def current() -> Backend:
    """Returns the module of Keras' current backend."""
    return cast(Backend, importlib.import_module(f"{__name__}.{keras.backend.backend()}"))
