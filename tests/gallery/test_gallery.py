"""Enrolling, updating and removing people."""

import os
import sqlite3
import stat

import numpy as np
import pytest

from keras_arcface.gallery import EmbedderMismatchError
from keras_arcface.gallery import Gallery
from keras_arcface.gallery import UnknownPersonError

SHA256 = "a" * 64


def found(gallery, embedding):
    """Returns the person who is found first."""
    return gallery.search([embedding], top_k=1)[0][0].person


def test_what_is_enrolled_is_there_after_reopening(path, rng):
    ann, bob = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(1, 8))
    with Gallery.open(path) as gallery:
        assert gallery.enroll("ann", ann, images=["a.jpg", "b.jpg", "c.jpg"]) == 3
        assert gallery.enroll("bob", bob) == 1
    with Gallery.open(path) as gallery:
        assert gallery.people() == ["ann", "bob"]
        assert len(gallery) == 2
        assert "ann" in gallery
        assert "eve" not in gallery
        assert 7 not in gallery
        np.testing.assert_array_equal(gallery.embeddings("ann"), ann)
        np.testing.assert_array_equal(gallery.embeddings("bob"), bob.astype(np.float32))
        images = gallery.images("ann")
        assert [image.name for image in images] == ["a.jpg", "b.jpg", "c.jpg"]
        np.testing.assert_allclose([image.norm for image in images], np.linalg.norm(ann, axis=1), rtol=1e-6)
        assert [image.name for image in gallery.images("bob")] == ["1"]
        assert repr(gallery) == f"Gallery({str(path)!r}, people=2)"


def test_enrolling_again_adds_images(gallery):
    gallery.enroll("ann", [[1.0, 0.0]], ["2"])
    gallery.enroll("ann", [[0.0, 5.0], [0.0, 1.0]])
    assert [image.name for image in gallery.images("ann")] == ["2", "1", "3"]
    assert len(gallery) == 1


def test_a_template_is_the_mean_of_the_normalized_images(gallery):
    gallery.enroll("ann", [[1.0, 0.0], [0.0, 100.0]])
    (match,) = gallery.search([[1.0, 1.0]])[0]
    assert match == ("ann", pytest.approx(1.0, abs=1e-6))


def test_update_replaces_all_images(gallery):
    gallery.enroll("ann", [[1.0, 0.0], [1.0, 0.1]], ["1.jpg", "2.jpg"])
    gallery.enroll("bob", [[0.9, 0.4]])
    assert found(gallery, [1.0, 0.0]) == "ann"
    assert gallery.update("ann", [[0.0, 1.0]], ["1.jpg"]) == 1
    assert [image.name for image in gallery.images("ann")] == ["1.jpg"]
    assert found(gallery, [1.0, 0.0]) == "bob"
    assert found(gallery, [0.0, 1.0]) == "ann"


def test_remove_removes_a_person_or_an_image(gallery):
    gallery.enroll("ann", [[1.0, 0.0], [0.0, 1.0]], ["x", "y"])
    gallery.enroll("bob", [[0.0, 1.0]])
    gallery.remove("ann", image="x")
    assert gallery.search([[1.0, 0.0]])[0][0].score == pytest.approx(0, abs=1e-6)
    gallery.remove("ann", image="y")
    assert gallery.people() == ["bob"]
    gallery.remove("bob")
    assert len(gallery) == 0
    assert gallery.search([[1.0, 0.0], [0.0, 1.0]]) == [[], []]


def test_the_last_person_takes_the_place_of_a_removed_one(gallery):
    for number, name in enumerate(("ann", "bob", "cem", "dan")):
        gallery.enroll(name, [np.eye(4)[number]])
    assert found(gallery, np.eye(4)[3]) == "dan"
    gallery.remove("bob")
    assert [found(gallery, row) for row in np.eye(4)[[0, 2, 3]]] == ["ann", "cem", "dan"]
    assert all(match.person != "bob" for match in gallery.search([np.eye(4)[1]])[0])
    gallery.enroll("bob", [np.eye(4)[1]])
    assert [found(gallery, row) for row in np.eye(4)] == ["ann", "bob", "cem", "dan"]


def test_enroll_many_acknowledges_batches(gallery, monkeypatch):
    monkeypatch.setattr("keras_arcface.gallery.enrollment._IMAGES_PER_BATCH", 4)
    acknowledged = []
    people = [(f"p{number}", [[1.0, number], [2.0, number]], None) for number in range(5)]
    assert gallery.enroll_many(iter(people), lambda count: acknowledged.append((count, len(gallery)))) == 10
    assert acknowledged == [(2, 2), (4, 4), (5, 5)]


def test_enroll_many_keeps_the_batches_before_an_error(gallery, monkeypatch):
    monkeypatch.setattr("keras_arcface.gallery.enrollment._IMAGES_PER_BATCH", 2)
    people = [("a", [[1.0]], None), ("b", [[1.0]], None), ("c", [[1.0]], None), ("d", [[0.0]], None)]
    with pytest.raises(ValueError, match="embeddings of 'd' must have rows") as caught:
        gallery.enroll_many(people)
    assert caught.value.__notes__ == [f"The first 2 tuples are enrolled in {gallery.path}."]
    assert gallery.people() == ["a", "b"]


def test_an_error_changes_nothing(gallery):
    gallery.enroll("ann", [[1.0, 0.0]], ["1.jpg"])
    with pytest.raises(ValueError, match=r"`update` replaces all of them. Received: '1\.jpg', which is enrolled"):
        gallery.enroll("ann", [[0.0, 1.0], [1.0, 1.0]], ["2.jpg", "1.jpg"])
    with pytest.raises(ValueError, match="They cancel each other"):
        gallery.enroll("ann", [[-1.0, 0.0]])
    with pytest.raises(ValueError, match="They cancel each other"):
        gallery.update("ann", [[-1.0, 0.0], [2.0, 0.0]])
    gallery.enroll("eve", [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], ["x", "y", "z"])
    with pytest.raises(ValueError, match="They cancel each other"):
        gallery.remove("eve", image="y")
    assert [image.name for image in gallery.images("ann")] == ["1.jpg"]
    assert len(gallery.images("eve")) == 3
    np.testing.assert_array_equal(gallery.embeddings("ann"), [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "embeddings of 'ann' .* zero or not finite: row 1"),
        ([[1.0, np.nan]], "zero or not finite: row 0"),
        ([[1.0, np.inf]], "zero or not finite: row 0"),
        (np.array([[1.0, 1e100]]), "as float32, must have rows that are finite and not zero"),
        ([1.0, 0.0], r"must be numbers of shape \(n, dim\)"),
        ([["a"]], r"must be numbers of shape \(n, dim\)"),
        (np.zeros((0, 2)), r"must be numbers of shape \(n, dim\)"),
    ],
)
def test_embeddings_without_a_direction_are_refused(gallery, embeddings, message):
    with pytest.raises(ValueError, match=message):
        gallery.enroll("ann", embeddings)
    assert len(gallery) == 0


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", 7, None, b"ann", "\ud800"])
def test_names_are_printable_texts(gallery, name):
    with pytest.raises(ValueError, match=r"person must be a text of at least one printable character\. Received"):
        gallery.enroll(name, [[1.0]])
    with pytest.raises(ValueError, match="each of images must be a text"):
        gallery.enroll("ann", [[1.0]], [name])


def test_images_are_as_many_as_embeddings_and_different(gallery):
    with pytest.raises(ValueError, match=r"images must be 1 names, one for each row of embeddings. Received: 2 names"):
        gallery.enroll("ann", [[1.0]], ["a", "b"])
    with pytest.raises(ValueError, match=r"images must be different names. Received: 'a' several times"):
        gallery.enroll("ann", [[1.0], [1.0]], ["a", "a"])
    gallery.enroll("ann", [[1.0]], "a.jpg")
    assert [image.name for image in gallery.images("ann")] == ["a.jpg"]


def test_who_is_unknown_is_named(gallery):
    gallery.enroll("ann", [[1.0]])
    for call in (gallery.remove, gallery.images, gallery.embeddings, lambda name: gallery.update(name, [[1.0]])):
        with pytest.raises(UnknownPersonError, match=r"the 1 people in .*people\.db\. Received: person='eve'"):
            call("eve")
    with pytest.raises(UnknownPersonError, match=r"one of the images of 'ann' .* Received: image='x\.jpg'"):
        gallery.remove("ann", image="x.jpg")


def test_embeddings_of_another_dimension_are_refused(gallery):
    gallery.enroll("ann", [[1.0, 0.0]])
    calls = (
        lambda: gallery.enroll("bob", [[1.0, 0.0, 0.0]]),
        lambda: gallery.update("ann", [[1.0, 0.0, 0.0]]),
        lambda: gallery.search([[1.0, 0.0, 0.0]]),
    )
    for call in calls:
        with pytest.raises(EmbedderMismatchError, match=r"dimension of .*people\.db, 2\. Received: dimension 3"):
            call()
    assert gallery.people() == ["ann"]
    gallery.remove("ann")
    with pytest.raises(EmbedderMismatchError, match="Received: dimension 3"):
        gallery.enroll("bob", [[1.0, 0.0, 0.0]])


def test_another_embedder_is_refused(path):
    with Gallery.open(path, embedder_sha256=SHA256.upper()) as gallery:
        assert gallery.embedder_sha256 == SHA256
        gallery.enroll("ann", [[1.0]])
    for sha256 in (None, SHA256):
        with Gallery.open(path, embedder_sha256=sha256) as gallery:
            assert gallery.embedder_sha256 == SHA256
    with pytest.raises(EmbedderMismatchError, match=f"people.db: {SHA256}. Received: {'b' * 64}"):
        Gallery.open(path, embedder_sha256="b" * 64)
    with pytest.raises(ValueError, match=r"embedder_sha256 must be 64 hexadecimal digits. Received: .*'abc'"):
        Gallery.open(path, embedder_sha256="abc")


def test_a_gallery_without_an_embedder_gets_one_while_it_is_empty(path):
    with Gallery.open(path) as gallery:
        assert gallery.embedder_sha256 is None
    with Gallery.open(path, embedder_sha256=SHA256) as gallery:
        assert gallery.embedder_sha256 == SHA256
    with Gallery.open(path.with_name("other.db")) as gallery:
        gallery.enroll("ann", [[1.0]])
    with pytest.raises(EmbedderMismatchError, match=r"none was given. Received: aaa"):
        Gallery.open(path.with_name("other.db"), embedder_sha256=SHA256)


def test_arguments_are_checked(path, gallery):
    with pytest.raises(ValueError, match=r"precision must be one of float32, int8. Received: precision='int4'"):
        Gallery.open(path, precision="int4")
    with pytest.raises(ValueError, match=r"engine must be one of exact, faiss. Received: engine='annoy'"):
        Gallery.open(path, engine="annoy")
    with pytest.raises(ValueError, match="precision must be float32 for the engine faiss"):
        Gallery.open(path, precision="int8", engine="faiss")
    gallery.enroll("ann", [[1.0]])
    with pytest.raises(ValueError, match=r"top_k must be an integer of at least 1. Received: top_k=0"):
        gallery.search([[1.0]], top_k=0)
    with pytest.raises(ValueError, match=r"threshold must be a cosine in \[-1, 1\]. Received: threshold=2"):
        gallery.search([[1.0]], threshold=2)


def test_a_closed_gallery_says_so(path):
    gallery = Gallery.open(path)
    gallery.close()
    gallery.close()
    for call in (gallery.people, lambda: gallery.enroll("ann", [[1.0]]), lambda: gallery.search([[1.0]])):
        with pytest.raises(ValueError, match=r"gallery must be open. Received: .*people\.db, which was closed"):
            call()


def test_a_gallery_does_not_survive_a_fork(gallery, monkeypatch):
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    with pytest.raises(ValueError, match=r"Received: .*people\.db, which another process opened before it was forked"):
        gallery.people()


def test_files_are_readable_for_their_owner_only_and_durable(path, gallery):
    gallery.enroll("ann", [[1.0, 0.0]])
    gallery.search([[1.0, 0.0]])
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["people.db", "people.db-shm", "people.db-wal", "people.db.float32"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    pragma = gallery._database.connection.execute
    assert pragma("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert pragma("PRAGMA synchronous").fetchone()[0] == 2
    assert pragma("PRAGMA secure_delete").fetchone()[0] == 1


def test_a_transaction_that_takes_too_long_is_reported(path, gallery):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    gallery._database.connection.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(TimeoutError, match=r"people\.db must not be in use by a transaction of another process"):
        gallery.enroll("ann", [[1.0]])
    other.execute("ROLLBACK")
    other.close()
    gallery.enroll("ann", [[1.0]])


def test_a_full_disk_is_reported(gallery, rng):
    gallery.enroll("ann", [[1.0] * 512])
    pages = gallery._database.connection.execute("PRAGMA page_count").fetchone()[0]
    gallery._database.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match=r"\[Errno 28\] SQLite: database or disk is full: .*people\.db"):
        gallery.enroll("bob", rng.normal(size=(100, 512)))
    assert gallery.people() == ["ann"]
