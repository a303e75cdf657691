"""Stores of `fault_injection.py`: single files that are replaced atomically."""

from pathlib import Path

from fault_injection import Store

from keras_arcface import _files


class ReplacedFile(Store):
    """File that `write_atomically` replaces. All reports, plots and descriptions are written by it."""

    name = "replaced file"

    def prepare(self, directory):
        _files.write_atomically(directory / "file", b"old")

    def run(self, directory):
        _files.write_atomically(directory / "file", b"new" * 1000)

    def state(self, directory: Path) -> str:
        return {b"old": "old", b"new" * 1000: "new"}.get((directory / "file").read_bytes(), "damaged")


STORES = [ReplacedFile()]
