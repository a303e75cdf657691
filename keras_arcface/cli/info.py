"""Prints versions, backends, devices and installed extras.

    keras-arcface info
    keras-arcface info --json

Add this output to a bug report.
"""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

from keras_arcface._optional import is_installed
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.startup import load_tensorflow

# Extras of contributors; `all`, which only refers to the others; `cuda`, whose package TensorFlow is always installed.
_HIDDEN_EXTRAS = ("all", "cuda", "dev", "docs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    found = collect()
    if arguments.json:
        print_json(found)
        return
    for title, entries in found.items():
        print(title)
        for name, value in entries.items():
            print(f"  {name:24}{value if isinstance(value, str) else ', '.join(value) or 'none'}")


def collect() -> dict[str, dict[str, Any]]:
    """Returns a title -> name -> value dictionary of all that a bug report needs."""
    load_tensorflow()
    import keras

    requirements = _requirements()
    extras = sorted({extra for extra, _ in requirements if extra and extra not in _HIDDEN_EXTRAS})
    return {
        "system": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu cores": str(os.cpu_count()),
        },
        "packages": {
            "keras-arcface": _version("keras-arcface"),
            **{package: _version(package) for extra, package in requirements if not extra},
        },
        "backends": {
            "keras backend": keras.backend.backend(),
            **{name: _version(name) for name in ("tensorflow", "jax", "torch")},
        },
        "devices": {
            "tensorflow": _tensorflow_devices(),
            **({"jax": _jax_devices()} if is_installed("jax") else {}),
        },
        "extras": {extra: _state([package for name, package in requirements if name == extra]) for extra in extras},
    }


def _requirements() -> list[tuple[str, str]]:
    """Returns the requirements of this package as pairs of an extra, or "", and a package."""
    from packaging.requirements import Requirement

    parsed = [Requirement(line) for line in importlib.metadata.requires("keras-arcface") or []]
    extras = importlib.metadata.metadata("keras-arcface").get_all("Provides-Extra") or []

    def packages(extra: str) -> Iterator[str]:
        for requirement in parsed:
            if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
                continue
            if requirement.name == "keras-arcface":  # an extra that refers to others
                for other in sorted(requirement.extras):
                    yield from packages(other)
            else:
                yield requirement.name

    core = [("", requirement.name) for requirement in parsed if requirement.marker is None]
    return core + [(extra, package) for extra in extras for package in packages(extra)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _state(packages: list[str]) -> str:
    missing = [package for package in packages if _version(package) == "not installed"]
    return f"not installed: {', '.join(missing)}" if missing else "installed"


def _tensorflow_devices() -> list[str]:
    import tensorflow as tf

    names = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        names.append(" ".join([device.name.removeprefix("/physical_device:"), details.get("device_name", "")]).strip())
    return names


def _jax_devices() -> list[str]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:  # a broken driver, which a bug report must show
        return [f"error: {error}"]
    return [f"{device.platform}:{device.id} {device.device_kind}" for device in devices]
