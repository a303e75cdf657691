"""Thresholds in the database of a gallery."""

import sqlite3

from keras_arcface.gallery.database import Database
from keras_arcface.gallery.thresholds import IdentificationThreshold

_TYPES = (str, float, float, int, int, float, float, float, int)
_COLUMNS = "target_fpir, threshold, accepted, impostors, fpir, low, high, gallery_size"


def write(connection: sqlite3.Connection, name: str, threshold: IdentificationThreshold) -> None:
    """Stores a threshold, inside a transaction of the caller."""
    values = (threshold.target_fpir, threshold.threshold, threshold.accepted, threshold.impostors, threshold.fpir)
    connection.execute(
        f"INSERT OR REPLACE INTO thresholds (name, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (name, *values, *threshold.fpir_interval, threshold.gallery_size),
    )


def read(database: Database) -> dict[str, IdentificationThreshold]:
    """Returns all thresholds by their names."""
    rows = database.select(f"SELECT name, {_COLUMNS} FROM thresholds ORDER BY name", types=_TYPES)
    return {
        name: IdentificationThreshold(target, threshold, accepted, impostors, fpir, (low, high), size)
        for name, target, threshold, accepted, impostors, fpir, low, high, size in rows
    }
