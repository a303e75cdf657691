"""Stores of `fault_injection.py`: the matrix file of a gallery. SQLite's own operations are not intercepted."""

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
from fault_injection import Store

from keras_arcface.gallery import Gallery
from keras_arcface.gallery import matrix_file
from keras_arcface.gallery.matrix import matrix_path

_ROWS = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
_UNIT = _ROWS / np.linalg.norm(_ROWS, axis=1, keepdims=True)


def _enroll(directory: Path) -> Path:
    path = directory / "people.db"
    with Gallery.open(path) as gallery:
        for person, row in zip(("ann", "bob", "cem"), _ROWS, strict=True):
            gallery.enroll(person, [row])
    return path


def _query(path: Path, query: str):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(query)]


class CreatedMatrix(Store):
    """Matrix file that a search creates."""

    name = "matrix of a gallery"

    def prepare(self, directory):
        _enroll(directory)

    def run(self, directory):
        with Gallery.open(directory / "people.db") as gallery:
            assert gallery.search(_ROWS[1:2])[0][0].person == "bob"

    def state(self, directory):
        path = matrix_path(directory / "people.db", "float32")
        if not path.exists():
            return "old"
        with open(path, "rb") as file:
            header = matrix_file.read_header(file, "float32")
            if header is None:
                return "damaged"
            if _query(directory / "people.db", "SELECT token FROM matrices") != [header.token]:
                return "old"  # not used, and replaced by the next search
            rows, _ = matrix_file.map_rows(file, header.layout)
        return "new" if np.allclose(rows[:3], _UNIT, atol=1e-6) else "wrong rows"

    def litter(self, directory):
        # A lock file that cannot be removed does not hold the lock, and the next search needs none.
        return [name for name in super().litter(directory) if not name.endswith(".lock")]


class ErasedMatrix(Store):
    """Matrix file from which a removed person is erased, after the removal from the database."""

    name = "erased matrix of a gallery"
    may_be_mixed = True

    def prepare(self, directory):
        with Gallery.open(_enroll(directory)) as gallery:
            gallery.search(_ROWS)

    def run(self, directory):
        with Gallery.open(directory / "people.db") as gallery:
            gallery.remove("ann")

    def rerun(self, directory):
        with Gallery.open(directory / "people.db") as gallery:
            if "ann" in gallery:
                gallery.remove("ann")
            for person, row in (("bob", _ROWS[1]), ("cem", _ROWS[2])):
                assert gallery.search([row])[0][0].person == person

    def state(self, directory):
        is_enrolled = "ann" in _query(directory / "people.db", "SELECT name FROM people")
        files = [file for file in directory.iterdir() if _UNIT[0].tobytes() in file.read_bytes()]
        if is_enrolled:
            return "old" if files else "erased, but enrolled"
        return "mixed" if files else "new"


STORES = [CreatedMatrix(), ErasedMatrix()]
