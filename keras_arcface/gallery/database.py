"""SQLite file of a gallery: durable transactions, and errors that name the file."""

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_arcface._files import sync_directory
from keras_arcface._messages import cut
from keras_arcface._regular_files import check_is_regular
from keras_arcface.gallery import schema
from keras_arcface.gallery.errors import GalleryFileError

# Seconds that a transaction waits for those of other processes, before it raises an error.
BUSY_SECONDS = 60.0
_MIN_SQLITE = (3, 37)  # with STRICT tables
_SETTINGS = (
    # A commit is on the disk when it returns. macOS needs `fullfsync` for that.
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    # Deleted rows are overwritten with zeros, and no temporary file has parts of rows.
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA foreign_keys = ON",
    # 32 MiB for the inner pages of the tables. The operating system caches the rest.
    "PRAGMA cache_size = -32768",
    # A damaged or manipulated file causes an error.
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)
# Held while a new file is open, so that another thread cannot have locked it already.
_creation = threading.Lock()
_logger = logging.getLogger(__name__)


class Database:
    """Connection to the SQLite file of a gallery, for all threads of a process.

    Readers do not wait for a writer, and a writer does not wait for readers. Writers wait for each other.

    Args:
        path: path of the file, which is created if it does not exist, readable for its owner only.

    Attributes:
        connection: the connection of SQLite.
        lock: lock of the connection, for the threads of this process.
    """

    def __init__(self, path: str | os.PathLike):
        if sqlite3.sqlite_version_info < _MIN_SQLITE:
            raise RuntimeError(
                f"A gallery requires SQLite {'.'.join(map(str, _MIN_SQLITE))}. Received: {sqlite3.sqlite_version}"
            )
        self.path = Path(path)
        self.lock = threading.RLock()
        self._process = os.getpid()
        _create_file(self.path)
        with self.named_errors():
            self.connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self.named_errors():
                self._prepare()
        except BaseException as error:
            self.connection.close()
            if isinstance(error, MemoryError):  # SQLite's answer to some damaged files
                raise _damaged(self.path, "a file that SQLite cannot read in the available memory") from error
            raise

    def _prepare(self) -> None:
        for setting in _SETTINGS:
            self.connection.execute(setting)
        self.connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        _check_size(self.connection, self.path)
        _switch_to_wal(self.connection)
        if schema.is_empty(self.connection):
            with self.writing():
                if schema.is_empty(self.connection):  # another process may have created them
                    schema.create(self.connection)
            sync_directory(self.path.parent)
        schema.check(self.connection, self.path)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Starts a transaction that sees the gallery as it is now, whatever other processes write."""
        with self.lock, self.named_errors():
            if self.connection.in_transaction:
                yield self.connection
                return
            with self._transaction("BEGIN"):
                self.connection.execute("SELECT generation FROM meta").fetchone()  # it starts with the first statement
                yield self.connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Starts a transaction that is on the disk after a normal exit, and has no effect after an exception."""
        with self.lock, self.named_errors(), self._transaction("BEGIN IMMEDIATE"):
            yield self.connection

    def begin_writing(self) -> None:
        """Starts a transaction like `writing`, for a caller that holds the lock and ends it itself."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Ends the transaction, whose changes are then on the disk."""
        self.connection.execute("COMMIT")

    def roll_back(self) -> None:
        """Ends the transaction without an effect, if there is one."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self.connection.execute(begin)
        try:
            yield
            self.commit()
        except BaseException:
            self.roll_back()
            raise

    def select(self, query: str, values: Sequence = (), types: tuple = (int,)) -> Generator[tuple, None, None]:
        """Iterates over the rows of a query, inside a transaction.

        Args:
            query: the query.
            values: values of its placeholders.
            types: expected type of each column. The type of a value in a damaged file may be another one than that of
                its table.

        Raises:
            GalleryFileError: if a value has another type.
        """
        cursor = self.connection.execute(query, values)
        try:
            for row in cursor:
                if not all(map(isinstance, row, types)):
                    raise _damaged(self.path, f"a row with the types {[type(value).__name__ for value in row]}")
                yield row
        finally:
            cursor.close()  # an unfinished query would keep the transaction open

    def select_one(self, query: str, values: Sequence = (), types: tuple = (int,)) -> Any:
        """Returns the first row of a query, its value if it has one column, or None if there is no row."""
        rows = self.select(query, values, types)
        row = next(rows, None)
        rows.close()
        return row if row is None or len(row) > 1 else row[0]

    def empty_log(self) -> bool:
        """Moves all transactions from the write-ahead log to the database, and truncates the log to 0 bytes.

        It waits until no transaction sees an older state.

        Returns:
            Whether it succeeded. A transaction of another process may prevent it.
        """
        with self.lock, self.named_errors():
            is_busy = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            _logger.warning(
                "%s-wal may contain removed embeddings until the next removal, or until no process uses the gallery: a "
                "transaction of another process takes more than %g seconds.",
                self.path,
                BUSY_SECONDS,
            )
        return not is_busy

    def close(self) -> None:
        """Closes the connection. The last one of all processes also removes the write-ahead log."""
        with self.lock:
            self.connection.close()

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Converts the errors of SQLite to errors that name the file."""
        if os.getpid() != self._process:
            raise ValueError(
                f"The gallery must be opened by the process that uses it. Received: {self.path}, which another process "
                "opened before it was forked"
            )
        try:
            yield
        except sqlite3.ProgrammingError as error:
            if "closed" not in str(error):
                raise
            raise ValueError(f"The gallery must be open. Received: {self.path}, which was closed") from error
        except sqlite3.DatabaseError as error:
            raise _named(error, self.path) from error
        except UnicodeDecodeError as error:  # in a message of SQLite about a damaged table
            raise _damaged(self.path, error) from error


def _named(error: sqlite3.DatabaseError, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TimeoutError(
            f"{path} must not be in use by a transaction of another process for more than {BUSY_SECONDS:g} seconds. "
            f"Received: {error}"
        )
    numbers = {
        sqlite3.SQLITE_FULL: errno.ENOSPC,
        sqlite3.SQLITE_IOERR: errno.EIO,
        sqlite3.SQLITE_CANTOPEN: errno.EACCES,
        sqlite3.SQLITE_READONLY: errno.EACCES,
        sqlite3.SQLITE_PERM: errno.EACCES,
    }
    if code in numbers:
        return OSError(numbers[code], f"SQLite: {error}", str(path))
    return _damaged(path, error)


def _damaged(path: Path, received: object) -> GalleryFileError:
    return GalleryFileError(f"{path} must be the undamaged file of a gallery. Received: {cut(str(received))}")


def _create_file(path: Path) -> None:
    """Creates an empty file if it does not exist, and refuses anything but a regular file.

    An existing file is not opened. Locks of SQLite belong to the process, and the operating system releases all of them
    when the process closes any descriptor of the file. Other processes could then delete the log that this one writes.
    """
    with _creation, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    check_is_regular(os.stat(path), os.fspath(path))


def _check_size(connection: sqlite3.Connection, path: Path) -> None:
    """Raises a GalleryFileError for a truncated file, whose missing part SQLite would read as zeros.

    With a write-ahead log, the file may be shorter than it says, because the log has not been copied.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        return
    page_size, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
    size = path.stat().st_size
    if size % page_size or size < page_size * pages:
        raise _damaged(path, f"{size:,} bytes, not {pages:,} pages of {page_size:,} bytes")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Uses a write-ahead log. SQLite does not wait for another process that does the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system does not support a write-ahead log, only {mode}")
