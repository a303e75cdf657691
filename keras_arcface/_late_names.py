"""Public names of a package whose modules are loaded on first use, because they load TensorFlow."""

import importlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any


def late_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the function `__getattr__` of a package.

    Args:
        package: name of the package.
        modules: names of the package, with the module that defines each, relative to the package.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return get
