"""Imports of optional dependencies, whose errors contain the installation command."""

import contextlib
import importlib.util
from collections.abc import Iterator


@contextlib.contextmanager
def optional_import(extra: str, required_by: str) -> Iterator[None]:
    """Adds the installation command to the error of a failed import inside a `with` block.

    >>> with optional_import("plots", "plot_roc"):
    ...     import a_module_that_is_absent
    Traceback (most recent call last):
    ModuleNotFoundError: plot_roc requires a_module_that_is_absent. Install it with: pip install 'keras-arcface[plots]'

    Args:
        extra: extra of this package that installs the module.
        required_by: feature that requires the module. The error message starts with it.

    Raises:
        ModuleNotFoundError: if the module, or one of its own imports, is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = install_hint(str(error.name), extra, required_by)
        raise ModuleNotFoundError(message, name=error.name, path=error.path) from error


def require(module: str, extra: str, required_by: str) -> None:
    """Raises the ModuleNotFoundError of `optional_import` if a module is not installed, without importing it."""
    if not is_installed(module):
        raise ModuleNotFoundError(install_hint(module, extra, required_by), name=module)


def is_installed(module: str) -> bool:
    """Returns whether a top-level module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


def install_hint(module: str, extra: str, required_by: str) -> str:
    """Returns the error message for a module that is not installed."""
    return f"{required_by} requires {module}. Install it with: pip install 'keras-arcface[{extra}]'"
