"""What `keras.ops` cannot say, a file per backend, imported when it is needed."""

import functools
import importlib

import keras


@functools.cache
def here():
    """The module of the backend at hand. Each has the functions that tensorflow.py describes."""
    return importlib.import_module(f"{__name__}.{keras.backend.backend()}")
