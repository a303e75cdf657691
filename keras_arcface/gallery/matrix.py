"""Templates of all people as a matrix in memory that follows the database."""

import contextlib
import logging
import os
import secrets
from pathlib import Path

import numpy as np

from keras_arcface._files import replacing
from keras_arcface._files import temporary_path
from keras_arcface._locks import FileLock
from keras_arcface._regular_files import open_regular
from keras_arcface.gallery import matrix_file
from keras_arcface.gallery.database import Database
from keras_arcface.gallery.quantization import quantize
from keras_arcface.gallery.records import Records

# A matrix file is replaced when more rows than this, and more than a tenth, are stale. Fewer are read at each opening.
_MAX_STALE = 4096
_MAX_STALE_SHARE = 0.1
# Unused rows of a new file, for people who are enrolled later.
_MIN_SPARE = 1024
_SPARE_SHARE = 0.25
# A process that creates a file reads all embeddings, at several hundred megabytes per second.
_LOCK_SECONDS = 3600.0
_logger = logging.getLogger(__name__)


class TemplateMatrix:
    """Matrix whose rows are the templates of the people, mapped from a file beside the database.

    Args:
        database: database of the gallery.
        kind: "float32" or "int8".

    Attributes:
        kind: "float32" or "int8".
        rows: `(n, dim)` float32 or int8, one row per person, in the order of the slots.
        scales: `(n,)` float32, the scales of int8 rows; None for float32.
        largest_error: upper bound of the L2 distance of a row from its template.
        generation: generation of the database that it shows; -1 before the first refresh.
    """

    def __init__(self, database: Database, kind: str):
        self._database, self.kind = database, kind
        self._records = Records(database)
        self.path = matrix_path(database.path, kind)
        self._clear()

    def _clear(self) -> None:
        self._all_rows: np.ndarray | None = None
        self._all_scales: np.ndarray | None = None
        self.rows: np.ndarray = np.zeros((0, 0), np.float32)
        self.scales: np.ndarray | None = None
        self.largest_error = 0.0
        self.generation = -1

    def refresh(self) -> bool:
        """Reads what has changed in the database, inside a transaction.

        Returns:
            Whether it succeeded. If not, the file must be created first, by `rebuild`.
        """
        generation, count = self._records.generation(), self._records.count()
        if generation == self.generation:
            return True
        if self._all_rows is None and not self._map():
            return False
        assert self._all_rows is not None
        stale = self._records.stale_slots(self.generation)
        if count > len(self._all_rows) or len(stale) > max(_MAX_STALE, _MAX_STALE_SHARE * count):
            return False
        for slots, templates in self._records.templates(stale):
            if self.kind == "int8":
                assert self._all_scales is not None
                self._all_rows[slots], self._all_scales[slots], largest_error = quantize(templates)
                self.largest_error = max(self.largest_error, largest_error)
            else:
                self._all_rows[slots] = templates
        self.rows = self._all_rows[:count]
        self.scales = None if self._all_scales is None else self._all_scales[:count]
        self.generation = generation
        return True

    def _map(self) -> bool:
        """Maps the file, and returns whether it is valid."""
        stored = self._token()
        try:
            with open_regular(self.path) as file:
                header = matrix_file.read_header(file, self.kind)
                if header is None or stored is None or header.token != stored:
                    return False
                if header.layout.dimension != self._records.dimension():
                    return False
                self._all_rows, self._all_scales = matrix_file.map_rows(file, header.layout)
        except FileNotFoundError:
            return False
        self.generation, self.largest_error = header.generation, header.largest_error
        return True

    def _token(self) -> bytes | None:
        query = "SELECT token FROM matrices WHERE kind = ?"
        return self._database.select_one(query, (self.kind,), (bytes,))

    def rebuild(self) -> None:
        """Creates the file from the database, unless another process has just done so.

        The caller must hold the lock of the database, and not be inside a transaction.
        """
        self._clear()
        with FileLock(_lock_path(self.path), timeout=_LOCK_SECONDS), self._database.named_errors():
            with self._database.reading():
                if self.refresh():
                    return
            self._clear()
            try:
                with replacing(self.path, mode=_mode_of(self._database.path)) as file:
                    header = self._write(file)
                    # From here on, nobody can remove a person whose row is in the file, but not yet known to be there.
                    self._database.begin_writing()
                    matrix_file.erase_rows(file, header.layout, self._changed_since(header.generation, header.rows))
                statement = "INSERT OR REPLACE INTO matrices VALUES (?, ?)"
                self._database.connection.execute(statement, (self.kind, header.token))
                self._database.connection.execute("DELETE FROM scrubs WHERE kind = ?", (self.kind,))
                self._database.commit()
            except BaseException:
                self._database.roll_back()
                raise
        _logger.info("%s: wrote the templates of %s people.", self.path, f"{header.rows:,}")

    def _write(self, file) -> matrix_file.Header:
        with self._database.reading():
            count, dimension = self._records.count(), self._records.dimension()
            self._records.check_slots()
            if dimension is None:
                raise self._records.damage("the dimension of the embeddings", "none")
            layout = matrix_file.Layout(self.kind, dimension, count + max(_MIN_SPARE, int(_SPARE_SHARE * count)))
            first, largest_error = 0, 0.0
            for slots, templates in self._records.templates():
                if not np.array_equal(slots, np.arange(first, first + len(slots))):
                    raise self._records.damage("an image of each person", f"none of a person after slot {first - 1}")
                rows, scales, error = quantize(templates) if self.kind == "int8" else (templates, None, 0.0)
                matrix_file.write_rows(file, layout, first, rows, scales)
                first, largest_error = first + len(slots), max(largest_error, error)
            if first != count:
                raise self._records.damage("an image of each person", f"none of {count - first} people")
            token = secrets.token_bytes(matrix_file.TOKEN_BYTES)
            header = matrix_file.Header(layout, count, self._records.generation(), token, largest_error)
        matrix_file.write_header(file, header)
        os.fsync(file.fileno())  # the final one, inside a transaction, is then short
        return header

    def _changed_since(self, generation: int, rows: int) -> list[int]:
        """Returns the slots below `rows` whose row is stale or not used any more."""
        return [*self._records.stale_slots(generation).tolist(), *range(self._records.count(), rows)]


def matrix_path(database: Path, kind: str) -> Path:
    """Returns the path of a matrix file beside the database."""
    return database.with_name(f"{database.name}.{kind}")


def erase_removed_rows(database: Database) -> None:
    """Erases the rows of removed people and images from all matrix files, if there are any to erase.

    The transaction of the removal must have ended, and no other transaction may see the state before it, because the
    rows are erased under the eyes of processes that map the file.
    """
    connection = database.connection
    with database.writing():
        pending = list(database.select("SELECT kind, slot FROM scrubs", types=(str, int)))
        for kind in dict.fromkeys(kind for kind, _ in pending):
            if kind not in matrix_file.KINDS:
                continue
            path = matrix_path(database.path, kind)
            _remove_unfinished(path)
            old = database.select_one("SELECT token FROM matrices WHERE kind = ?", (kind,), (bytes,))
            new = secrets.token_bytes(matrix_file.TOKEN_BYTES)
            slots = [slot for other, slot in pending if other == kind]
            if old is not None and matrix_file.erase(path, kind, old, new, slots):
                connection.execute("UPDATE matrices SET token = ? WHERE kind = ?", (new, kind))
            else:
                connection.execute("DELETE FROM matrices WHERE kind = ?", (kind,))
        connection.execute("DELETE FROM scrubs")


def _remove_unfinished(path: Path) -> None:
    """Removes the temporary file of a killed process."""
    temporary = temporary_path(path)
    if temporary.exists():
        with contextlib.suppress(BlockingIOError), FileLock(_lock_path(path)):
            temporary.unlink(missing_ok=True)


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o666
