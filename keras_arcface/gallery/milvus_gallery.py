"""Gallery in Milvus, a vector database, for more people than one machine can search."""

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._arguments import check_integer
from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface._optional import optional_import
from keras_arcface.evaluation.templates import pool_templates
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.evaluation.vectors import l2_norms
from keras_arcface.gallery.calibration import CalibratedSearch
from keras_arcface.gallery.calibration import Match
from keras_arcface.gallery.enrollment import Enrollment
from keras_arcface.gallery.enrollment import check_enrollment
from keras_arcface.gallery.enrollment import check_mean
from keras_arcface.gallery.enrollment import check_name
from keras_arcface.gallery.enrollment import check_new_names
from keras_arcface.gallery.enrollment import check_sha256
from keras_arcface.gallery.enrollment import enroll_in_batches
from keras_arcface.gallery.enrollment import free_names
from keras_arcface.gallery.errors import EmbedderMismatchError
from keras_arcface.gallery.errors import GalleryFileError
from keras_arcface.gallery.errors import UnknownPersonError
from keras_arcface.gallery.records import EnrolledImage
from keras_arcface.gallery.thresholds import IdentificationThreshold

_VERSION = 1
# Limits of Milvus.
_MAX_NAME_BYTES = 4096
_MAX_TOP_K = _MAX_ROWS = 16384
_ROWS_PER_QUERY = 1000
_PROBES_AT_ONCE = 64


class MilvusGallery(CalibratedSearch):
    """A `Gallery` in a collection of Milvus, with the same methods.

    Milvus is a database for vectors on one or many machines. A path ending in `.db` instead of an address uses Milvus
    Lite, which runs in this process, for tests and small galleries.

    It differs from `Gallery` in these points. Milvus chooses the index, which is approximate on a cluster. A method
    that fails or is killed may have been done in part, so call it again. Two processes must not change the same person
    at the same time. Milvus deletes removed rows from its files later, when it compacts them, and keeps its own
    backups; the operator of the cluster is responsible for that. A search finds what was acknowledged before it, and
    nobody who was removed.

    Args:
        uri: address of a server, such as `http://localhost:19530`, or path of a Milvus Lite database.
        collection: name of the collection, which the first enrollment creates.
        embedder_sha256: checksum of the file of the embedder, which a new collection stores. None: any embedder whose
            embeddings have the dimension of the gallery.
        token: token, or user and password as `user:password`, of the server.

    Raises:
        ConnectionError: if the server does not respond, or refuses a request. Also raised by all methods.
        EmbedderMismatchError: if the gallery has embeddings of another embedder.
        GalleryFileError: if the collection is not a gallery, or has another version.
        ModuleNotFoundError: if pymilvus is not installed.
        ValueError: if an argument is not valid.

    Examples:
        >>> with MilvusGallery.open("milvus.db") as gallery:
        ...     gallery.enroll("ann", [[1.0, 0.1], [1.0, 0.2]])
        ...     gallery.search([[0.9, 0.2]], top_k=1)
        2
        [[Match(person='ann', score=0.997...)]]
    """

    def __init__(
        self,
        uri: str | os.PathLike,
        collection: str = "people",
        embedder_sha256: str | None = None,
        token: str = "",
    ):
        with optional_import("milvus", "MilvusGallery"):
            import pymilvus

        self._sha256 = None if embedder_sha256 is None else check_sha256(embedder_sha256)
        check("collection", collection, isinstance(collection, str) and collection.isidentifier(), "an identifier")
        self._uri, self._collection, self._milvus = os.fspath(uri), collection, pymilvus
        self._known_facts: dict | None = None
        with self._named_errors():
            self._client = pymilvus.MilvusClient(uri=self._uri, token=token)
        try:
            self._check_collection()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        uri: str | os.PathLike,
        collection: str = "people",
        embedder_sha256: str | None = None,
        token: str = "",
    ) -> "MilvusGallery":
        """Connects to a gallery. It disconnects at the end of a `with` block.

        Args:
            uri: address of a server, or path of a Milvus Lite database.
            collection: name of the collection.
            embedder_sha256: checksum of the embedder.
            token: token of the server.

        Returns:
            The gallery. `MilvusGallery` describes the arguments and errors.
        """
        return cls(uri, collection, embedder_sha256, token)

    def __enter__(self) -> "MilvusGallery":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Disconnects from the server."""
        with self._named_errors():
            self._client.close()

    @property
    def _place(self) -> str:
        return f"{self._uri}, collection {self._collection}"

    @property
    def embedder_sha256(self) -> str | None:
        """Checksum of the embedder; None if the gallery was created without one."""
        facts = self._facts()
        return self._sha256 if facts is None else facts["embedder_sha256"]

    def __repr__(self) -> str:
        return f"MilvusGallery({self._uri!r}, {self._collection!r}, people={len(self)})"

    def __len__(self) -> int:
        """Returns the number of people."""
        if not self._exists():
            return 0
        rows = self._request("query", filter='kind == "person"', output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def __contains__(self, person: object) -> bool:
        """Returns whether a person is enrolled."""
        return isinstance(person, str) and bool(self._by_id([_person_id(person)], "name"))

    def people(self) -> list[str]:
        """Returns the names of all people, sorted."""
        return self._people()

    def images(self, person: str) -> list[EnrolledImage]:
        """Returns the images of a person in the order of their enrollment.

        Args:
            person: name of the person.

        Returns:
            The name, norm and time of each image.

        Raises:
            UnknownPersonError: if the person is not enrolled.
        """
        rows = self._images(self._check_person(person))
        return [EnrolledImage(row["name"], row["facts"]["norm"], row["facts"]["time"]) for row in rows]

    def embeddings(self, person: str) -> np.ndarray:
        """Returns the embeddings of a person's images, for a request for information or to move a gallery.

        Args:
            person: name of the person.

        Returns:
            `(n, dim)` float32 as they were enrolled, in the order of `images`.

        Raises:
            UnknownPersonError: if the person is not enrolled.
        """
        return _vectors(self._images(self._check_person(person)))

    def enroll(self, person: str, embeddings: Any, images: Sequence[str] | None = None) -> int:
        """Adds images of a person, who may be new. Arguments, result and errors are those of `Gallery.enroll`.

        Args:
            person: name of the person.
            embeddings: `(n, dim)` embeddings of the images, of any norm.
            images: `(n,)` names or paths of the images; None for numbers.

        Returns:
            The number of images that were added.
        """
        enrollment = check_enrollment(person, embeddings, images)
        self._add([enrollment])
        return len(enrollment.embeddings)

    def enroll_many(
        self,
        people: Iterable[tuple[str, Any, Sequence[str] | None]],
        acknowledge: Callable[[int], object] | None = None,
    ) -> int:
        """Adds images of many people in batches. Arguments, result and errors are those of `Gallery.enroll_many`.

        Args:
            people: `(person, embeddings, images)` tuples.
            acknowledge: is called with the number of tuples so far, each time a batch is stored.

        Returns:
            The number of images that were added.
        """
        return enroll_in_batches(people, self._add, self._place, acknowledge)

    def update(self, person: str, embeddings: Any, images: Sequence[str] | None = None) -> int:
        """Replaces all images of an enrolled person. Arguments, result and errors are those of `Gallery.update`.

        Args:
            person: name of the person.
            embeddings: `(n, dim)` embeddings of the images, of any norm.
            images: `(n,)` names or paths of the images; None for numbers.

        Returns:
            The number of images that the person now has.
        """
        enrollment = check_enrollment(person, embeddings, images)
        former = {row["id"] for row in self._images(self._check_person(person))}
        rows = self._rows(enrollment, [])
        self._request("upsert", data=rows)
        self._delete(former - {row["id"] for row in rows})
        return len(enrollment.embeddings)

    def remove(self, person: str, image: str | None = None) -> None:
        """Removes a person with all images, or one image. Arguments and errors are those of `Gallery.remove`.

        Args:
            person: name of the person.
            image: name of the image; None for the person. If it is the only one, the person is removed.
        """
        owner = self._check_person(person)
        rows = self._images(owner)
        if image is not None:
            kept = [row for row in rows if row["name"] != check_name("image", image)]
            if len(kept) == len(rows):
                raise UnknownPersonError(
                    f"image must be one of the images of {short(person)} in {self._place}. Received: "
                    f"image={short(image)}"
                )
            if kept:
                self._request("upsert", data=[self._template(person, _vectors(kept))])
                self._delete({_image_id(owner, image)})
                return
        # First the template, so that nobody finds the person if this fails.
        self._delete({owner})
        self._delete({row["id"] for row in rows})

    def search(self, embeddings: Any, top_k: int = 5, threshold: float | str | None = None) -> list[list[Match]]:
        """Finds the people who are most similar to each probe.

        Args:
            embeddings: `(n, dim)` embeddings of the probes, of any norm.
            top_k: largest number of people per probe, at most 16,384.
            threshold: lowest score of a match; or the name of a threshold from `calibrate`; None for no threshold.

        Returns:
            For each probe, its matches, best first.

        Raises:
            EmbedderMismatchError: if the embeddings have another dimension than those in the gallery.
            ValueError: if an embedding is zero or not finite (the error names its row), or an argument is not valid.

        Warns:
            StaleThresholdWarning: if the gallery differs by more than a tenth from the size that the threshold was
                calibrated for.
        """
        probes = l2_normalize(embeddings, "embeddings")
        check_integer("top_k", top_k, 1, _MAX_TOP_K)
        lowest = self._resolve_threshold(threshold)
        self._check_dimension(probes.shape[1])
        if not self._exists():
            return [[] for _ in probes]
        results = []
        for start in range(0, len(probes), _PROBES_AT_ONCE):
            found = self._request(
                "search",
                data=list(probes[start : start + _PROBES_AT_ONCE]),
                limit=top_k,
                filter='kind == "person"',
                output_fields=["name"],
                consistency_level="Strong",
            )
            results += [
                [
                    Match(hit["entity"]["name"], min(1.0, max(-1.0, hit["distance"])))
                    for hit in hits
                    if hit["distance"] >= lowest
                ]
                for hits in found
            ]
        return results

    def thresholds(self) -> dict[str, IdentificationThreshold]:
        """Returns the stored thresholds by their names."""
        rows = self._in_list("kind", ["threshold"], ["name", "facts"])
        return {row["name"]: _threshold(row["facts"]) for row in sorted(rows, key=lambda row: row["name"])}

    def _store_threshold(self, name: str, threshold: IdentificationThreshold) -> None:
        facts = dataclasses.asdict(threshold)
        self._request("upsert", data=[self._row(_hash("threshold", name), "threshold", "", name, facts, None)])

    def _add(self, enrollments: list[Enrollment]) -> None:
        """Stores images, and the templates of their people."""
        by_person: dict[str, Enrollment] = {}
        for enrollment in enrollments:
            previous = by_person.get(enrollment.person)
            by_person[enrollment.person] = enrollment if previous is None else _joined(previous, enrollment)
        for enrollment in by_person.values():
            self._check_dimension(enrollment.embeddings.shape[1])
        self._create(enrollments[0].embeddings.shape[1])
        owners = [_person_id(person) for person in by_person]
        enrolled = {row["id"] for row in self._by_id(owners, "id")}
        # Images without a person are left over from a removal that was not completed.
        self._delete({row["id"] for row in self._of_owners([owner for owner in owners if owner not in enrolled], "id")})
        rows: list[dict] = []
        for owner, enrollment in zip(owners, by_person.values(), strict=True):
            rows += self._rows(enrollment, self._images(owner) if owner in enrolled else [])
        for start in range(0, len(rows), _ROWS_PER_QUERY):
            self._request("upsert", data=rows[start : start + _ROWS_PER_QUERY])

    def _rows(self, enrollment: Enrollment, enrolled: list[dict]) -> list[dict]:
        """Returns the rows of new images, and last that of the template of all images."""
        person, embeddings, norms, names = enrollment
        taken = {row["name"] for row in enrolled}
        names = free_names(taken, len(embeddings)) if names is None else names
        check_new_names(person, names, taken)
        vectors = np.concatenate([_vectors(enrolled), embeddings]) if enrolled else embeddings
        owner, now = _person_id(person), time.time()
        first = 1 + max((row["facts"]["number"] for row in enrolled), default=-1)
        rows = [
            self._row(
                *(_image_id(owner, name), "image", owner, name),
                {"norm": float(norm), "time": now, "number": first + number},
                row,
            )
            for number, (name, row, norm) in enumerate(zip(names, embeddings, norms, strict=True))
        ]
        return [*rows, self._template(person, vectors)]

    def _template(self, person: str, embeddings: np.ndarray) -> dict:
        check_mean(person, embeddings)
        template = pool_templates(embeddings, [0] * len(embeddings), weight_by_norm=False)[1][0]
        owner = _person_id(person)
        return self._row(owner, "person", owner, person, {"images": len(embeddings)}, template)

    def _row(self, number: str, kind: str, owner: str, name: str, facts: dict, vector: np.ndarray | None) -> dict:
        check("name", name, len(name.encode()) <= _MAX_NAME_BYTES, f"at most {_MAX_NAME_BYTES} bytes")
        if vector is None:  # Milvus requires one in each row
            vector = np.eye(1, (self._facts() or {})["dimension"], dtype=np.float32)[0]
        return {"id": number, "kind": kind, "owner": owner, "name": name, "facts": facts, "vector": vector}

    def _check_person(self, person: str) -> str:
        """Returns the id of an enrolled person, or raises an UnknownPersonError."""
        if check_name("person", person) not in self:
            raise UnknownPersonError(
                f"person must be one of the {len(self):,} people in {self._place}. Received: person={short(person)}"
            )
        return _person_id(person)

    def _check_dimension(self, dimension: int) -> None:
        facts = self._facts()
        if facts is not None and facts["dimension"] != dimension:
            raise EmbedderMismatchError(
                f"embeddings must have the dimension of {self._place}, {facts['dimension']}. Received: dimension "
                f"{dimension}, from another embedder"
            )

    def _check_collection(self) -> None:
        facts = self._facts()
        if facts is None:
            return
        if facts["schema_version"] != _VERSION:
            raise GalleryFileError(
                f"{self._place} must have the schema version {_VERSION}. Received: version {facts['schema_version']}"
            )
        if self._sha256 not in (None, facts["embedder_sha256"]):
            raise EmbedderMismatchError(
                f"embedder_sha256 must be that of the embedder of {self._place}: "
                f"{facts['embedder_sha256'] or 'none was given'}. Received: {self._sha256}. Enroll all images again "
                "with the new embedder in another collection"
            )

    def _facts(self) -> dict | None:
        """Returns the facts of the gallery; None if nobody was ever enrolled."""
        if self._known_facts is None and self._exists():
            rows = self._by_id(["gallery"], "facts")
            if rows:
                self._known_facts = rows[0]["facts"]
            elif self._request("query", filter='id != ""', output_fields=["id"], limit=1):
                raise GalleryFileError(
                    f"{self._place} must be the collection of a gallery. Received: another collection"
                )
        return self._known_facts

    def _exists(self) -> bool:
        with self._named_errors():
            return self._client.has_collection(self._collection)

    def _create(self, dimension: int) -> None:
        """Creates the collection and its facts if they do not exist."""
        if self._facts() is not None:
            return
        if not self._exists():
            self._create_collection(dimension)
        facts = {"schema_version": _VERSION, "dimension": dimension, "embedder_sha256": self._sha256}
        vector = np.eye(1, dimension, dtype=np.float32)[0]
        self._request("upsert", data=[self._row("gallery", "gallery", "", "gallery", facts, vector)])

    def _create_collection(self, dimension: int) -> None:
        types = self._milvus.DataType
        with self._named_errors():
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", types.VARCHAR, is_primary=True, max_length=64)
            schema.add_field("kind", types.VARCHAR, max_length=16)
            schema.add_field("owner", types.VARCHAR, max_length=64)
            schema.add_field("name", types.VARCHAR, max_length=_MAX_NAME_BYTES)
            schema.add_field("facts", types.JSON)
            schema.add_field("vector", types.FLOAT_VECTOR, dim=dimension)
            index = self._client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
            self._client.create_collection(
                self._collection, schema=schema, index_params=index, consistency_level="Strong"
            )

    def _images(self, owner: str) -> list[dict]:
        """Returns the rows of the images of a person in the order of their enrollment."""
        rows = self._of_owners([owner], "name", "facts", "vector")
        return sorted(rows, key=lambda row: row["facts"]["number"])

    def _of_owners(self, owners: list[str], *fields: str) -> list[dict]:
        """Returns the rows of the images of people."""
        return self._in_list('kind == "image" and owner', owners, fields)

    def _by_id(self, ids: list[str], *fields: str) -> list[dict]:
        return self._in_list("id", ids, fields)

    def _in_list(self, field: str, values: list[str], fields: Sequence[str]) -> list[dict]:
        """Returns the rows with one of the values in a field."""
        rows: list[dict] = []
        if not self._exists():
            return rows
        for start in range(0, len(values), _ROWS_PER_QUERY):
            quoted = ", ".join(f'"{value}"' for value in values[start : start + _ROWS_PER_QUERY])
            found = self._request("query", filter=f"{field} in [{quoted}]", output_fields=list(fields), limit=_MAX_ROWS)
            if len(found) == _MAX_ROWS:
                raise ValueError(f"People must have fewer than {_MAX_ROWS:,} images. Received: more, in {self._place}")
            rows += found
        return rows

    def _delete(self, ids: set[str]) -> None:
        quoted = sorted(f'"{number}"' for number in ids)
        for start in range(0, len(quoted), _ROWS_PER_QUERY):
            self._request("delete", filter=f"id in [{', '.join(quoted[start : start + _ROWS_PER_QUERY])}]")

    def _people(self) -> list[str]:
        """Returns the names of all people, sorted, however many they are."""
        names: list[str] = []
        if not self._exists():
            return names
        with self._named_errors():
            iterator = self._client.query_iterator(
                self._collection,
                batch_size=_ROWS_PER_QUERY,
                filter='kind == "person"',
                output_fields=["name"],
                consistency_level="Strong",
            )
            while batch := iterator.next():
                names += [row["name"] for row in batch]
            iterator.close()
        return sorted(names)

    def _request(self, method: str, **arguments) -> Any:
        with self._named_errors():
            if method == "query":
                arguments["consistency_level"] = "Strong"
            return getattr(self._client, method)(self._collection, **arguments)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except self._milvus.MilvusException as error:
            raise ConnectionError(f"{self._place}: {cut(str(error))}") from error


def _person_id(person: str) -> str:
    return _hash("person", person)


def _image_id(owner: str, image: str) -> str:
    return _hash("image", owner, image)


def _hash(*texts: str) -> str:
    """Returns an id of 64 characters, which needs no quoting in a condition."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _vectors(rows: list[dict]) -> np.ndarray:
    return np.array([row["vector"] for row in rows], np.float32)


def _joined(first: Enrollment, second: Enrollment) -> Enrollment:
    """Returns the images of two enrollments of a person as one."""
    taken: set[str] = set()
    names: list[str] = []
    for enrollment in (first, second):
        new = enrollment.images or free_names(taken, len(enrollment.embeddings))
        check_new_names(first.person, new, taken)
        names += new
        taken |= set(new)
    embeddings = np.concatenate([first.embeddings, second.embeddings])
    return Enrollment(first.person, embeddings, l2_norms(embeddings, "embeddings"), names)


def _threshold(facts: dict) -> IdentificationThreshold:
    return IdentificationThreshold(**{**facts, "fpir_interval": tuple(facts["fpir_interval"])})
