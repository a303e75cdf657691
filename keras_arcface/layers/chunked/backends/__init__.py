"""Functions that `keras.ops` lacks, in one module per Keras backend, which is imported on first use."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import keras


class Backend(Protocol):
    """Protocol of the backend modules. Tensors and variables are float32 objects of the backend."""

    def read(self, variable: Any) -> Any:
        """Returns the value of a variable as a tensor, which `keras.ops.custom_gradient` requires."""

    def jit(self, function: Callable, matmul_dtype: str, dynamic_shapes: bool = False) -> Callable:
        """Compiles a function of nested tensors that calls `matmul` with `matmul_dtype`. It has no gradient.

        With `dynamic_shapes`, the function calls `find`, whose results have a shape that depends on values.
        """

    def fuse(self, function: Callable) -> Callable:
        """Compiles a part of a compiled function, so that its element-wise operations share one pass over memory."""

    def chunk_limits(self) -> tuple[int, int]:
        """Returns the maximum size in bytes of the cosines of a chunk, and its maximum number of classes."""

    def repeat(self, count: int, body: Callable, carry: tuple) -> tuple:
        """Computes `carry = body(i, *carry)` for i in [0, count), sequentially to save memory."""

    def is_fast(self, dtype: str) -> bool:
        """Returns whether matrix products with inputs of `dtype` are not slower than those of float32."""

    def matmul(
        self, first: Any, second: Any, dtype: str, transpose_first: bool = False, transpose_second: bool = False
    ) -> Any:
        """Multiplies matrices or stacks of matrices, rounded to `dtype`. Sums are float32 if supported."""

    def row_sums(self, values: Any) -> Any:
        """Returns the float32 sums over the last axis."""

    def fast_copy(self, rows: Any) -> Any:
        """Returns rows in the dtype of the fastest matrix products."""

    def rounding_errors(self, rows: Any) -> Any:
        """Returns the L2 norms of the differences between rows and what `fast_matmul` uses of their `fast_copy`.

        The function must be called inside of `fuse`.
        """

    def fast_matmul(self, first: Any, second: Any) -> Any:
        """Returns `first @ second.T` of results of `fast_copy`. A result that is not float32 is rounded."""

    def list_fractions(self) -> tuple[float, float]:
        """Returns the maximum length of a list, as fractions of all pairs, and of the pairs of a chunk."""

    def find(self, mask: Any, size: Any) -> tuple[Any, Any]:
        """Returns the int32 positions of true values in a mask, and their number.

        There are at most `size` positions. If a compiler needs the shape, there are `size`, and those after the last
        true value are not defined.
        """

    def new_list(self, start: Any, size: Any) -> Any:
        """Returns a list of rows that begins with the rows `start`, and can grow to `size` rows."""

    def extend(self, values: Any, rows: Any, count: Any) -> Any:
        """Returns the list with rows written after the first `count` rows, which is the end of its valid rows."""

    def as_array(self, values: Any, like: Any) -> Any:
        """Returns the rows of a list, which are like those of `like`, and perhaps further rows at the end."""

    def slice_rows(self, array: Any, start: Any, size: int) -> Any:
        """Returns `size` entries of a vector. Those after its end are not defined, or missing."""

    def zeros(self, shape: tuple, like: Any) -> Any:
        """Returns zeros on the device of `like`, which `add_rows` may overwrite."""

    def add_rows(self, array: Any, index: Any, rows: Any) -> Any:
        """Returns an array of `zeros` with rows added at an index, in place if possible."""

    def new_cache(self, shape: tuple) -> Any:
        """Returns a cache for `shape[0]` tensors of shape `shape[1:]`."""

    def cache_put(self, cache: Any, index: Any, value: Any) -> Any:
        """Returns the cache with a tensor written at an index."""

    def cache_get(self, cache: Any, index: Any, shape: tuple) -> Any:
        """Returns the tensor at an index of the cache."""

    def empty(self, shape: tuple, like: Any) -> Any:
        """Returns an array with undefined values on the device of `like`. The caller must write every entry."""

    def write_rows(self, array: Any, start: Any, rows: Any) -> Any:
        """Returns a `(shards, n, dim)` array with `(shards, m, dim)` rows written at `start`, in place if possible."""

    def gather_replicas(self, values: Any) -> Any:
        """Returns the values of all replicas, concatenated along the first axis. All replicas get the same result."""

    def local_part(self, values: Any, count: Any) -> Any:
        """Returns the `count` rows of the current replica from the gathered values of all replicas."""

    def take_rows(self, variable: Any, rows: Any, shards: int) -> Any:
        """Returns rows of a large variable without copying it. `rows` is sorted, with the same number per shard."""

    def put_rows(self, variable: Any, rows: Any, values: Any, shards: int) -> None:
        """Writes rows of a large variable. All replicas must write the same values."""

    def assign(self, variable: Any, value: Any) -> None:
        """Writes a variable. All replicas must write the same value."""


@functools.cache
def current() -> Backend:
    """Returns the module of the current Keras backend."""
    return cast(Backend, importlib.import_module(f"{__name__}.{keras.backend.backend()}"))
