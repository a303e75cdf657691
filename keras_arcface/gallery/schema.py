"""Tables of the SQLite file of a gallery."""

import functools
import sqlite3
from pathlib import Path

from keras_arcface._messages import short
from keras_arcface.gallery.errors import GalleryFileError

VERSION = 1
APPLICATION_ID = 0x6B616766  # "kagf", which `file` and other tools can show
# An embedding is a row of 2 KB, of which 7 fit into a page.
PAGE_SIZE = 16384

# The template of each person is a row of the matrix, `slot`, in [0, number of people). `generation` counts the
# transactions: a row of a matrix is stale if the generation of its person is later than that of the matrix.
# `matrices` has the random token of each valid matrix file, and `scrubs` the rows that must be erased from it.
#
# Rows of `vectors` all have the same size, and are never deleted: a removed embedding is overwritten in place with
# zeros, and its row is used again. When SQLite moves rows between pages after deletions, it may leave copies in unused
# parts of a page, even with `secure_delete`.
_TABLES = (
    """CREATE TABLE meta (
        schema_version INTEGER NOT NULL,
        dimension INTEGER,
        embedder_sha256 TEXT,
        generation INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE people (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        slot INTEGER NOT NULL UNIQUE,
        generation INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX people_by_generation ON people (generation)",
    """CREATE TABLE images (
        id INTEGER PRIMARY KEY,
        person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        vector INTEGER NOT NULL REFERENCES vectors (id),
        norm REAL NOT NULL,
        time REAL NOT NULL,
        UNIQUE (person, name)
    ) STRICT""",
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, embedding BLOB NOT NULL) STRICT",
    "CREATE TABLE free_vectors (id INTEGER PRIMARY KEY) STRICT",
    """CREATE TABLE thresholds (
        name TEXT PRIMARY KEY,
        target_fpir REAL NOT NULL,
        threshold REAL NOT NULL,
        accepted INTEGER NOT NULL,
        impostors INTEGER NOT NULL,
        fpir REAL NOT NULL,
        low REAL NOT NULL,
        high REAL NOT NULL,
        gallery_size INTEGER NOT NULL
    ) STRICT""",
    "CREATE TABLE matrices (kind TEXT PRIMARY KEY, token BLOB NOT NULL) STRICT",
    "CREATE TABLE scrubs (kind TEXT, slot INTEGER, PRIMARY KEY (kind, slot)) STRICT",
)


def create(connection: sqlite3.Connection) -> None:
    """Creates the tables in an empty database, inside a transaction of the caller."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES (?, NULL, NULL, 0)", (VERSION,))


def is_empty(connection: sqlite3.Connection) -> bool:
    """Returns whether a database has no tables."""
    return not _definitions(connection)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises a GalleryFileError unless a database has exactly the tables of a gallery of this version.

    Triggers and views, which would run with the statements of the gallery, are refused.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise GalleryFileError(f"{path} must be the file of a gallery. Received: another SQLite database")
    found = _definitions(connection)
    query = "SELECT schema_version FROM meta LIMIT 2"
    versions = connection.execute(query).fetchall() if "schema_version" in found.get("meta", "") else []
    if len(versions) != 1:
        raise GalleryFileError(f"{path} must have one row in the table meta. Received: {len(versions)} rows")
    if versions[0][0] != VERSION:
        raise GalleryFileError(f"{path} must have the schema version {VERSION}. Received: version {versions[0][0]}")
    expected = _expected_definitions()
    if found != expected:
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise GalleryFileError(
            f"{path} must have the tables of a gallery. Received: other definitions of {short(names)}"
        )


def _definitions(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    return {str(name): str(sql) for name, sql in rows}


@functools.cache
def _expected_definitions() -> dict[str, str]:
    connection = sqlite3.connect(":memory:")
    try:
        create(connection)
        return _definitions(connection)
    finally:
        connection.close()
