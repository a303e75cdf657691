"""People and images in the database of a gallery."""

import dataclasses
import time
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

from keras_arcface._messages import short
from keras_arcface.evaluation.templates import pool_templates
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.gallery.database import Database
from keras_arcface.gallery.enrollment import DTYPE
from keras_arcface.gallery.enrollment import MAX_DIMENSION
from keras_arcface.gallery.enrollment import check_mean
from keras_arcface.gallery.enrollment import check_new_names
from keras_arcface.gallery.enrollment import free_names
from keras_arcface.gallery.errors import EmbedderMismatchError
from keras_arcface.gallery.errors import GalleryFileError
from keras_arcface.gallery.errors import UnknownPersonError

_IMAGES_PER_CHUNK = 8192
_VARIABLES_PER_STATEMENT = 500


@dataclasses.dataclass(frozen=True)
class EnrolledImage:
    """Image of a person in a gallery.

    Attributes:
        name: its name or path, unique among the images of the person.
        norm: L2 norm of its embedding.
        time: when it was enrolled, in seconds since 1970.

    Examples:
        >>> with Gallery.open("people.db") as gallery:
        ...     _ = gallery.enroll("ann", [[3.0, 4.0]], images=["ann.jpg"])
        ...     (image,) = gallery.images("ann")
        >>> image.name, image.norm
        ('ann.jpg', 5.0)
    """

    name: str
    norm: float
    time: float


class Records:
    """People and images of a gallery.

    Every method belongs into a transaction of the database.

    Args:
        database: the database.
    """

    def __init__(self, database: Database):
        self._database = database
        self._connection = database.connection

    def generation(self) -> int:
        """Returns the number of transactions that changed people or images."""
        generation = self._database.select_one("SELECT generation FROM meta")
        if generation < 0:
            raise self.damage("a generation of at least 0", f"generation {generation}")
        return generation

    def dimension(self) -> int | None:
        """Returns the dimension of the embeddings; None if none was ever enrolled.

        Raises:
            GalleryFileError: if it is out of range.
        """
        dimension = self._database.select_one("SELECT dimension FROM meta", types=(int | None,))
        if dimension is not None and not 1 <= dimension <= MAX_DIMENSION:
            raise self.damage(f"a dimension in [1, {MAX_DIMENSION}]", f"dimension {dimension}")
        return dimension

    def check_dimension(self, dimension: int) -> None:
        """Raises an EmbedderMismatchError if embeddings do not have the dimension of the gallery."""
        expected = self.dimension()
        if expected not in (None, dimension):
            raise EmbedderMismatchError(
                f"embeddings must have the dimension of {self._database.path}, {expected}. Received: dimension "
                f"{dimension}, from another embedder"
            )

    def count(self) -> int:
        """Returns the number of people."""
        return self._database.select_one("SELECT coalesce(max(slot) + 1, 0) FROM people")

    def find(self, person: str) -> tuple[int, int] | None:
        """Returns the id and the slot of a person; None if the person is not enrolled."""
        return self._database.select_one("SELECT id, slot FROM people WHERE name = ?", (person,), (int, int))

    def get(self, person: str) -> tuple[int, int]:
        """Returns the id and the slot of a person, or raises an UnknownPersonError."""
        found = self.find(person)
        if found is None:
            raise UnknownPersonError(
                f"person must be one of the {self.count():,} people in {self._database.path}. Received: "
                f"person={short(person)}"
            )
        return found

    def people(self) -> list[str]:
        """Returns the names of all people, sorted."""
        return [name for (name,) in self._database.select("SELECT name FROM people ORDER BY name", types=(str,))]

    def images(self, person: str) -> list[EnrolledImage]:
        """Returns the images of a person in the order of their enrollment."""
        query = "SELECT name, norm, time FROM images WHERE person = ? ORDER BY id"
        rows = self._database.select(query, (self.get(person)[0],), (str, float, float))
        return [EnrolledImage(*row) for row in rows]

    def embeddings(self, person: str) -> np.ndarray:
        """Returns the embeddings of a person, `(n, dim)` float32, in the order of their enrollment."""
        number, slot = self.get(person)
        query = (
            "SELECT embedding FROM images CROSS JOIN vectors ON vectors.id = images.vector WHERE person = ? "
            "ORDER BY images.id"
        )
        return self._array([(slot, *row) for row in self._database.select(query, (number,), (bytes,))])

    def add(self, person: str, embeddings: np.ndarray, norms: np.ndarray, images: list[str] | None) -> None:
        """Adds images of a new or an enrolled person."""
        self.check_dimension(embeddings.shape[1])
        self._connection.execute("UPDATE meta SET dimension = ? WHERE dimension IS NULL", (embeddings.shape[1],))
        found = self.find(person)
        if found is None:
            slot = self.count()
            statement = "INSERT INTO people (name, slot, generation) VALUES (?, ?, 0)"
            number = int(self._connection.execute(statement, (person, slot)).lastrowid or 0)
            taken: set[str] = set()
        else:
            number = found[0]
            query = "SELECT name FROM images WHERE person = ?"
            taken = {name for (name,) in self._database.select(query, (number,), (str,))}
        names = free_names(taken, len(embeddings)) if images is None else images
        check_new_names(person, names, taken)
        now = time.time()
        rows = [
            (number, name, vector, float(norm), now)
            for name, vector, norm in zip(names, self._store(embeddings), norms, strict=True)
        ]
        self._connection.executemany(
            "INSERT INTO images (person, name, vector, norm, time) VALUES (?, ?, ?, ?, ?)", rows
        )
        if len(rows) + len(taken) > 1:
            check_mean(person, self.embeddings(person))
        self._touch(number)

    def _store(self, embeddings: np.ndarray) -> list[int]:
        """Writes embeddings, and returns the numbers of their rows."""
        query = "SELECT id FROM free_vectors LIMIT ?"
        free = [number for (number,) in self._database.select(query, (len(embeddings),))]
        self._connection.executemany("DELETE FROM free_vectors WHERE id = ?", [(number,) for number in free])
        self._overwrite(free, [row.tobytes() for row in embeddings[: len(free)]])
        for row in embeddings[len(free) :]:
            statement = "INSERT INTO vectors (embedding) VALUES (?)"
            free.append(int(self._connection.execute(statement, (row.tobytes(),)).lastrowid or 0))
        return free

    def _overwrite(self, vectors: list[int], contents: list[bytes]) -> None:
        """Overwrites rows of the same size, which SQLite does in place."""
        statement = "UPDATE vectors SET embedding = ? WHERE id = ?"
        self._connection.executemany(statement, zip(contents, vectors, strict=True))

    def remove_images(self, person: str, image: str | None = None) -> None:
        """Removes one or all images of a person, who stays in the gallery, even without an image."""
        number, slot = self.get(person)
        condition, values = ("person = ?", [number]) if image is None else ("person = ? AND name = ?", [number, image])
        query = f"SELECT vector FROM images WHERE {condition}"
        vectors = [vector for (vector,) in self._database.select(query, values)]
        if image is not None and not vectors:
            raise UnknownPersonError(
                f"image must be one of the images of {short(person)} in {self._database.path}. Received: "
                f"image={short(image)}"
            )
        self._connection.execute(f"DELETE FROM images WHERE {condition}", values)
        self._overwrite(vectors, [bytes(DTYPE.itemsize * (self.dimension() or 0))] * len(vectors))
        self._connection.executemany("INSERT INTO free_vectors VALUES (?)", [(vector,) for vector in vectors])
        self._scrub(slot)
        self._touch(number)
        if image is not None and self.has_images(person):
            check_mean(person, self.embeddings(person))

    def has_images(self, person: str) -> bool:
        """Returns whether a person has an image."""
        query = "SELECT 1 FROM images WHERE person = ? LIMIT 1"
        return self._database.select_one(query, (self.get(person)[0],)) is not None

    def remove(self, person: str) -> None:
        """Removes a person. The person in the last slot moves to the free one, so that slots have no gaps."""
        self.remove_images(person)
        number, slot = self.get(person)
        last = self.count() - 1
        self._connection.execute("DELETE FROM people WHERE id = ?", (number,))
        if last != slot:
            moved = self._database.select_one("SELECT id FROM people WHERE slot = ?", (last,))
            if moved is None:
                raise self.damage("a person in each slot", f"nobody in slot {last}")
            self._connection.execute("UPDATE people SET slot = ? WHERE id = ?", (slot, moved))
            self._touch(moved)
            self._scrub(last)

    def count_transaction(self) -> None:
        """Ends the changes of a transaction, for those who have read an earlier state."""
        self._connection.execute("UPDATE meta SET generation = generation + 1")

    def _touch(self, number: int) -> None:
        """Marks the row of a person in every matrix as stale."""
        statement = "UPDATE people SET generation = (SELECT generation + 1 FROM meta) WHERE id = ?"
        self._connection.execute(statement, (number,))

    def _scrub(self, slot: int) -> None:
        """Demands that the row of a slot is erased from all matrix files."""
        self._connection.execute("INSERT OR IGNORE INTO scrubs SELECT kind, ? FROM matrices", (slot,))

    def stale_slots(self, generation: int) -> np.ndarray:
        """Returns the slots whose person has changed after a generation."""
        query = "SELECT slot FROM people WHERE generation > ? ORDER BY slot"
        return np.array([slot for (slot,) in self._database.select(query, (generation,))], np.int64)

    def names(self, slots: Iterable[int]) -> dict[int, str]:
        """Returns the names of the people in slots."""
        return dict(self._in_slots("SELECT slot, name FROM people WHERE slot IN ({})", slots, (int, str)))

    def templates(self, slots: Iterable[int] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterates over the templates of the people in slots, or of all people, in chunks.

        Args:
            slots: slots in any order; None for all.

        Yields:
            `(slots, templates)`: `(n,)` int, ascending within the chunk, and `(n, dim)` float32, L2-normalized.

        Raises:
            GalleryFileError: if an embedding has another dimension, is zero or not finite.
        """
        query = (
            "SELECT slot, embedding FROM people CROSS JOIN images ON images.person = people.id "
            "CROSS JOIN vectors ON vectors.id = images.vector"
        )
        if slots is None:
            rows: Iterator[tuple] = self._database.select(f"{query} ORDER BY slot, images.id", types=(int, bytes))
        else:
            rows = self._in_slots(f"{query} WHERE slot IN ({{}}) ORDER BY slot, images.id", slots, (int, bytes))
        chunk: list[tuple[int, bytes]] = []
        for row in rows:
            if len(chunk) >= _IMAGES_PER_CHUNK and row[0] != chunk[-1][0]:
                yield self._pool(chunk)
                chunk = []
            chunk.append(row)
        if chunk:
            yield self._pool(chunk)

    def _pool(self, rows: list[tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray]:
        embeddings, of_image = self._array(rows), np.array([slot for slot, _ in rows], np.int64)
        slots, starts, counts = np.unique(of_image, return_index=True, return_counts=True)
        has_many = counts > 1
        try:
            templates = l2_normalize(embeddings[starts], "embeddings")
            if has_many.any():
                pooled = np.isin(of_image, slots[has_many])
                templates[has_many] = pool_templates(embeddings[pooled], of_image[pooled], weight_by_norm=False)[1]
        except ValueError as error:
            raise self.damage("valid embeddings", f"in slots from {rows[0][0]}, {error}") from error
        return slots, templates

    def _array(self, rows: list[tuple[int, bytes]]) -> np.ndarray:
        """Returns the embeddings of rows `(slot, bytes)` as an array `(n, dim)`."""
        dimension = self.dimension() or 0
        for slot, content in rows:
            if len(content) != DTYPE.itemsize * dimension:
                raise self.damage(f"embeddings of {4 * dimension} bytes", f"{len(content)} bytes in slot {slot}")
        array = np.frombuffer(b"".join(content for _, content in rows), DTYPE)
        return array.reshape(len(rows), dimension).astype(np.float32)

    def _in_slots(self, query: str, slots: Iterable[int], types: tuple) -> Iterator[tuple]:
        values = [int(slot) for slot in slots]
        for start in range(0, len(values), _VARIABLES_PER_STATEMENT):
            part = values[start : start + _VARIABLES_PER_STATEMENT]
            yield from self._database.select(query.format(", ".join("?" * len(part))), part, types)

    def check_slots(self) -> None:
        """Raises a GalleryFileError unless the slots of the people are 0, 1, 2, ... without a gap."""
        query = "SELECT count(*), coalesce(max(slot) + 1, 0) FROM people"
        people, slots = self._database.select_one(query, types=(int, int))
        if people != slots:
            raise self.damage("a person in each slot", f"{people} people in {slots} slots")

    def damage(self, expected: str, received: str) -> GalleryFileError:
        """Returns an error for a damaged database."""
        return GalleryFileError(f"{self._database.path} must have {expected}. Received: {received}")
