"""Gallery of people: enrolling, removing and searching."""

import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.gallery import search_engines
from keras_arcface.gallery import threshold_records
from keras_arcface.gallery.calibration import CalibratedSearch
from keras_arcface.gallery.calibration import Match
from keras_arcface.gallery.database import Database
from keras_arcface.gallery.enrollment import Enrollment
from keras_arcface.gallery.enrollment import check_enrollment
from keras_arcface.gallery.enrollment import check_name
from keras_arcface.gallery.enrollment import check_sha256
from keras_arcface.gallery.enrollment import enroll_in_batches
from keras_arcface.gallery.errors import EmbedderMismatchError
from keras_arcface.gallery.matrix import TemplateMatrix
from keras_arcface.gallery.matrix import erase_removed_rows
from keras_arcface.gallery.matrix_file import KINDS
from keras_arcface.gallery.records import EnrolledImage
from keras_arcface.gallery.records import Records
from keras_arcface.gallery.reranking import rerank
from keras_arcface.gallery.thresholds import IdentificationThreshold

# A matrix file may be out of date when it is finished, because other processes remove and enroll people.
_MAX_REBUILDS = 20


class Gallery(CalibratedSearch):
    """People with the embeddings of their images, stored in a file, and search among them.

    A person is found by a template: the L2-normalized mean of the L2-normalized embeddings of their images. Use
    `Gallery.open` to create or open a gallery, in a `with` block.

    What a method has changed is on the disk when it returns, and survives a crash of the process or the machine. If a
    method raises an error, it has changed nothing. Several processes and threads may use a gallery at the same time,
    on one machine; each search sees the gallery as it is when the search starts.

    Beside the file `people.db` are `people.db-wal` and `people.db-shm` while it is open, and `people.db.float32` or
    `people.db.int8`, a copy of the templates that a search maps into memory. This copy may be deleted; the next search
    creates it again. Back up `people.db` when no process uses it, or with SQLite's command `.backup`.

    A process that has a gallery open must not open `people.db` in other ways, for example to copy it, because closing
    it again would release the locks of SQLite on which the gallery relies. A forked process must open the gallery
    again.

    `remove` and `update` overwrite removed embeddings with zeros in all of these files. They cannot overwrite copies
    elsewhere: backups, snapshots of the file system, and blocks that the file system or an SSD has replaced. Encrypt
    the disk if they matter. The names of removed people and images may remain in unused parts of `people.db` until
    SQLite's command `VACUUM` writes it again.

    Args:
        path: path of the file of the gallery, on a local file system. A file that does not exist is created, readable
            for its owner only.
        embedder_sha256: checksum of the file of the embedder, which an empty gallery stores. None: any embedder whose
            embeddings have the dimension of the gallery.
        precision: "float32", or "int8" for a matrix of a quarter of the size. The int8 matrix selects candidates, whose
            scores are then computed from the float32 embeddings, so the results are the same.
        engine: "exact", or "faiss" for faiss's `IndexFlatIP`, which requires float32 and the extra `faiss`.

    Raises:
        EmbedderMismatchError: if the gallery has embeddings of another embedder.
        GalleryFileError: if the file is not a gallery, has another version, or is damaged.
        ModuleNotFoundError: if faiss is required and not installed.
        OSError: if the file cannot be opened.
        TimeoutError: if another process blocks the file for a minute.
        ValueError: if an argument is not valid.

    Examples:
        >>> ann, bob = [[1.0, 0.1], [1.0, 0.2]], [[0.1, 1.0]]
        >>> with Gallery.open("people.db") as gallery:
        ...     gallery.enroll("ann", ann, images=["ann/1.jpg", "ann/2.jpg"])
        ...     gallery.enroll("bob", bob)
        ...     gallery.search([[0.9, 0.2]], top_k=1)
        2
        1
        [[Match(person='ann', score=0.997...)]]
        >>> with Gallery.open("people.db") as gallery:
        ...     gallery.remove("ann")
        ...     gallery.people()
        ['bob']
    """

    def __init__(
        self,
        path: str | os.PathLike,
        embedder_sha256: str | None = None,
        precision: str = "float32",
        engine: str = "exact",
    ):
        check_choice("precision", precision, KINDS)
        check_choice("engine", engine, search_engines.ENGINES)
        is_possible = engine != "faiss" or precision == "float32"
        check("precision", precision, is_possible, "float32 for the engine faiss")
        if embedder_sha256 is not None:
            embedder_sha256 = check_sha256(embedder_sha256)
        self._engine = search_engines.get(engine)
        self._database = Database(path)
        self._records = Records(self._database)
        self._matrix = TemplateMatrix(self._database, precision)
        self._searched_generation = -1
        try:
            self._check_embedder(embedder_sha256)
            self._erase_removed(only_left_over=True)
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def open(
        cls,
        path: str | os.PathLike,
        embedder_sha256: str | None = None,
        precision: str = "float32",
        engine: str = "exact",
    ) -> "Gallery":
        """Opens a gallery, or creates an empty one if the file does not exist. It closes at the end of a `with` block.

        Args:
            path: path of the file of the gallery.
            embedder_sha256: checksum of the embedder.
            precision: "float32" or "int8".
            engine: "exact" or "faiss".

        Returns:
            The gallery. `Gallery` describes the arguments and errors.
        """
        return cls(path, embedder_sha256, precision, engine)

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the gallery. Other methods then raise a ValueError."""
        self._database.close()

    @property
    def path(self) -> Path:
        """Path of the file of the gallery."""
        return self._database.path

    @property
    def embedder_sha256(self) -> str | None:
        """Checksum of the embedder; None if the gallery was created without one."""
        with self._database.reading():
            return self._database.select_one("SELECT embedder_sha256 FROM meta", types=(str | None,))

    @property
    def _place(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Gallery({str(self.path)!r}, people={len(self)})"

    def __len__(self) -> int:
        """Returns the number of people."""
        with self._database.reading():
            return self._records.count()

    def __contains__(self, person: object) -> bool:
        """Returns whether a person is enrolled."""
        if not isinstance(person, str):
            return False
        with self._database.reading():
            return self._records.find(person) is not None

    def people(self) -> list[str]:
        """Returns the names of all people, sorted."""
        with self._database.reading():
            return self._records.people()

    def images(self, person: str) -> list[EnrolledImage]:
        """Returns the images of a person in the order of their enrollment.

        Args:
            person: name of the person.

        Returns:
            The name, norm and time of each image.

        Raises:
            UnknownPersonError: if the person is not enrolled.
        """
        with self._database.reading():
            return self._records.images(check_name("person", person))

    def embeddings(self, person: str) -> np.ndarray:
        """Returns the embeddings of a person's images, for a request for information or to move a gallery.

        Args:
            person: name of the person.

        Returns:
            `(n, dim)` float32 as they were enrolled, in the order of `images`.

        Raises:
            UnknownPersonError: if the person is not enrolled.
        """
        with self._database.reading():
            return self._records.embeddings(check_name("person", person))

    def enroll(self, person: str, embeddings: Any, images: Sequence[str] | None = None) -> int:
        """Adds images of a person, who may be new.

        Args:
            person: name of the person.
            embeddings: `(n, dim)` embeddings of the images, of any norm.
            images: `(n,)` names or paths of the images, unique among those of the person; None for numbers.

        Returns:
            The number of images that were added.

        Raises:
            EmbedderMismatchError: if the embeddings have another dimension than those in the gallery.
            ValueError: if an embedding is zero or not finite (the error names its row), the embeddings of the person
                cancel each other, or a name is not valid, repeated, or that of an enrolled image.
        """
        enrollment = check_enrollment(person, embeddings, images)
        self._store([enrollment])
        return len(enrollment.embeddings)

    def enroll_many(
        self,
        people: Iterable[tuple[str, Any, Sequence[str] | None]],
        acknowledge: Callable[[int], object] | None = None,
    ) -> int:
        """Adds images of many people, in batches of a few thousand images.

        Args:
            people: `(person, embeddings, images)` tuples, the arguments of `enroll`. A person may occur again.
            acknowledge: is called with the number of tuples so far, each time a batch is on the disk.

        Returns:
            The number of images that were added.

        Raises:
            EmbedderMismatchError: as `enroll`.
            ValueError: as `enroll`. Earlier batches remain; a note of the error has the number of their tuples.

        Examples:
            >>> with Gallery.open("many.db", precision="int8") as gallery:
            ...     gallery.enroll_many((f"person {n}", np.eye(4)[n : n + 1], None) for n in range(4))
            4
        """
        return enroll_in_batches(people, self._store, self.path, acknowledge)

    def _store(self, batch: list[Enrollment]) -> None:
        with self._database.writing():
            for enrollment in batch:
                self._records.add(*enrollment)
            self._records.count_transaction()

    def update(self, person: str, embeddings: Any, images: Sequence[str] | None = None) -> int:
        """Replaces all images of an enrolled person, and erases the former ones as `remove` does.

        Args:
            person: name of the person.
            embeddings: `(n, dim)` embeddings of the images, of any norm.
            images: `(n,)` names or paths of the images; None for numbers.

        Returns:
            The number of images that the person now has.

        Raises:
            EmbedderMismatchError: as `enroll`.
            UnknownPersonError: if the person is not enrolled.
            ValueError: as `enroll`.
        """
        enrollment = check_enrollment(person, embeddings, images)
        with self._database.lock:
            with self._database.writing():
                self._records.remove_images(enrollment.person)
                self._records.add(*enrollment)
                self._records.count_transaction()
            self._erase_removed()
        return len(enrollment.embeddings)

    def remove(self, person: str, image: str | None = None) -> None:
        """Removes a person with all images, or one image, and erases the embeddings from the disk.

        Whoever searches afterwards, in any process, does not find the person. Their embeddings are overwritten with
        zeros in all files of the gallery.

        Args:
            person: name of the person.
            image: name of the image; None for the person. If it is the only one, the person is removed.

        Raises:
            OSError: if a file cannot be written. A note of the error says whether the person is removed.
            UnknownPersonError: if the person or the image is not enrolled.
            ValueError: if the remaining embeddings cancel each other.
        """
        person = check_name("person", person)
        with self._database.lock:
            with self._database.writing():
                if image is not None:
                    self._records.remove_images(person, check_name("image", image))
                if image is None or not self._records.has_images(person):
                    self._records.remove(person)
                self._records.count_transaction()
            self._erase_removed()

    def search(self, embeddings: Any, top_k: int = 5, threshold: float | str | None = None) -> list[list[Match]]:
        """Finds the people who are most similar to each probe.

        Args:
            embeddings: `(n, dim)` embeddings of the probes, of any norm.
            top_k: largest number of people per probe.
            threshold: lowest score of a match; or the name of a threshold from `calibrate`; None for no threshold.

        Returns:
            For each probe, its matches, best first. Among equal scores, the order does not change between searches.

        Raises:
            EmbedderMismatchError: if the embeddings have another dimension than those in the gallery.
            GalleryFileError: if the file is damaged.
            OSError: if the matrix file cannot be written or read.
            ValueError: if an embedding is zero or not finite (the error names its row), or an argument is not valid.

        Warns:
            StaleThresholdWarning: if the gallery differs by more than a tenth from the size that the threshold was
                calibrated for.
        """
        probes = l2_normalize(embeddings, "embeddings")
        check_integer("top_k", top_k, 1)
        with self._database.lock:
            lowest = self._resolve_threshold(threshold)
            for _ in range(_MAX_REBUILDS):
                with self._database.reading():
                    self._records.check_dimension(probes.shape[1])
                    if not self._records.count():
                        return [[] for _ in probes]
                    if self._matrix.refresh():
                        return self._search(probes, top_k, lowest)
                self._matrix.rebuild()
        raise OSError(
            f"{self._matrix.path} must be a file that stays valid until it is read. Received: {_MAX_REBUILDS} files "
            "that were damaged or out of date at once"
        )

    def _search(self, probes: np.ndarray, top_k: int, lowest: float) -> list[list[Match]]:
        if self._searched_generation != self._matrix.generation:
            is_first = self._searched_generation < 0
            stale = np.empty(0, np.int64) if is_first else self._records.stale_slots(self._searched_generation)
            self._engine.refresh(self._matrix, stale)
            self._searched_generation = self._matrix.generation
        top_k = min(top_k, len(self._matrix.rows))
        found = self._engine.search(probes, top_k)
        if self._matrix.kind == "int8":
            found = rerank(self._records, probes, found, top_k)
        names = self._records.names(np.unique(np.concatenate([slots for slots, _ in found])))
        return [
            [Match(names[slot], score) for slot, score in zip(slots.tolist(), scores, strict=True) if score >= lowest]
            for slots, scores in ((slots, np.clip(scores, -1, 1).tolist()) for slots, scores in found)
        ]

    def thresholds(self) -> dict[str, IdentificationThreshold]:
        """Returns the stored thresholds by their names."""
        with self._database.reading():
            return threshold_records.read(self._database)

    def _store_threshold(self, name: str, threshold: IdentificationThreshold) -> None:
        with self._database.writing() as connection:
            threshold_records.write(connection, name, threshold)

    def _check_embedder(self, sha256: str | None) -> None:
        if sha256 is None:
            return
        with self._database.reading():
            query = "SELECT embedder_sha256, dimension FROM meta"
            stored, dimension = self._database.select_one(query, types=(str | None, int | None))
        if stored is None and dimension is None:
            with self._database.writing() as connection:
                connection.execute("UPDATE meta SET embedder_sha256 = ? WHERE embedder_sha256 IS NULL", (sha256,))
            return self._check_embedder(sha256)
        if stored != sha256:
            raise EmbedderMismatchError(
                f"embedder_sha256 must be that of the embedder of {self.path}: {stored or 'none was given'}. "
                f"Received: {sha256}. Enroll all images again with the new embedder in another gallery"
            )

    def _erase_removed(self, only_left_over: bool = False) -> None:
        """Erases what a transaction has removed from the write-ahead log and the matrix files.

        Args:
            only_left_over: if true, does nothing unless another process was killed while it did this.
        """
        if only_left_over:
            with self._database.reading() as connection:
                if connection.execute("SELECT 1 FROM scrubs LIMIT 1").fetchone() is None:
                    return
        # It waits for the searches that still use the removed rows.
        self._database.empty_log()
        with self._database.reading() as connection:
            is_mapped = connection.execute("SELECT 1 FROM scrubs LIMIT 1").fetchone() is not None
        if not is_mapped:
            return
        try:
            erase_removed_rows(self._database)
        except OSError as error:
            error.add_note(
                f"What was to be removed from {self.path} is removed and not found any more. Its copy in the matrix "
                "file is erased when the gallery is opened again, or with the next removal."
            )
            raise
