"""The gallery in Milvus, with Milvus Lite."""

import numpy as np
import pytest

from keras_arcface.gallery import EmbedderMismatchError
from keras_arcface.gallery import Gallery
from keras_arcface.gallery import GalleryFileError
from keras_arcface.gallery import MilvusGallery
from keras_arcface.gallery import StaleThresholdWarning
from keras_arcface.gallery import UnknownPersonError

pytest.importorskip("pymilvus", reason="requires pymilvus and milvus-lite")
pytest.importorskip("milvus_lite", reason="requires pymilvus and milvus-lite")
SHA256 = "a" * 64


@pytest.fixture
def uri(tmp_path):
    return tmp_path / "milvus.db"


@pytest.fixture
def gallery(uri):
    with MilvusGallery.open(uri) as gallery:
        yield gallery


def test_does_what_a_gallery_does(uri, path, rng):
    """Random operations on both, with the same results."""
    with Gallery.open(path) as expected, MilvusGallery.open(uri) as gallery:
        for step in range(60):
            person, rows = f"person {rng.integers(8)}", rng.normal(size=(rng.integers(1, 4), 16))
            names = [f"{step}-{row} 'a\"" for row in range(len(rows))]
            operation = rng.choice(["enroll", "many", "update", "remove", "image"])
            for one in (expected, gallery):
                if operation == "enroll":
                    assert one.enroll(person, rows, names) == len(rows)
                elif operation == "many":
                    people = [(person, rows, names), (f"{person}é", rows, None), (person, rows[:1], ["x" * (step + 1)])]
                    assert one.enroll_many(people) == 2 * len(rows) + 1
                elif person not in one:
                    pass
                elif operation == "update":
                    assert one.update(person, rows, names[::-1]) == len(rows)
                elif operation == "remove":
                    one.remove(person)
                else:
                    one.remove(person, one.images(person)[0].name)
            assert gallery.people() == expected.people()
            assert len(gallery) == len(expected)
        for person in expected.people():
            images, ours = expected.images(person), gallery.images(person)
            assert [image.name for image in ours] == [image.name for image in images]
            np.testing.assert_allclose([image.norm for image in ours], [image.norm for image in images], rtol=1e-6)
            np.testing.assert_array_equal(gallery.embeddings(person), expected.embeddings(person))
        probes = rng.normal(size=(100, 16))
        for ours, matches in zip(gallery.search(probes), expected.search(probes), strict=True):
            assert [match.person for match in ours] == [match.person for match in matches]
            np.testing.assert_allclose([match.score for match in ours], [match.score for match in matches], atol=1e-5)


def test_what_is_enrolled_is_there_after_reopening(uri):
    with MilvusGallery.open(uri, embedder_sha256=SHA256) as gallery:
        assert len(gallery) == 0
        assert gallery.search([[1.0, 0.0]]) == [[]]
        assert gallery.people() == []
        assert "ann" not in gallery
        gallery.enroll("ann", [[1.0, 0.0]])
        assert repr(gallery) == f"MilvusGallery({str(uri)!r}, 'people', people=1)"
    with MilvusGallery.open(uri) as gallery:
        assert gallery.embedder_sha256 == SHA256
        assert gallery.search([[2.0, 0.0]])[0][0] == ("ann", pytest.approx(1.0))
    with pytest.raises(EmbedderMismatchError, match=rf"milvus\.db, collection people: {SHA256}. Received: {'b' * 64}"):
        MilvusGallery.open(uri, embedder_sha256="b" * 64)


def test_an_error_changes_nothing(gallery):
    gallery.enroll("ann", [[1.0, 0.0]], ["1.jpg"])
    with pytest.raises(ValueError, match=r"Received: '1\.jpg', which is enrolled"):
        gallery.enroll("ann", [[0.0, 1.0], [1.0, 1.0]], ["2.jpg", "1.jpg"])
    with pytest.raises(ValueError, match=r"Received: '2\.jpg', which is enrolled"):
        gallery.enroll_many([("ann", [[1.0, 1.0]], ["2.jpg"]), ("ann", [[1.0, 1.0]], ["2.jpg"])])
    with pytest.raises(ValueError, match="They cancel each other"):
        gallery.update("ann", [[-1.0, 0.0], [2.0, 0.0]])
    with pytest.raises(EmbedderMismatchError, match=r"collection people, 2\. Received: dimension 3"):
        gallery.enroll("bob", [[1.0, 0.0, 0.0]])
    with pytest.raises(EmbedderMismatchError, match=r"collection people, 2\. Received: dimension 3"):
        gallery.search([[1.0, 0.0, 0.0]])
    for call in (gallery.remove, gallery.images, gallery.embeddings, lambda name: gallery.update(name, [[1.0, 1.0]])):
        with pytest.raises(UnknownPersonError, match=r"the 1 people in .*people\. Received: person='eve'"):
            call("eve")
    with pytest.raises(UnknownPersonError, match=r"one of the images of 'ann' .* Received: image='x\.jpg'"):
        gallery.remove("ann", image="x.jpg")
    with pytest.raises(ValueError, match=r"name must be at most 4096 bytes"):
        gallery.enroll("a" * 5000, [[1.0, 0.0]])
    assert [image.name for image in gallery.images("ann")] == ["1.jpg"]
    assert gallery.people() == ["ann"]


def test_images_that_a_failed_removal_has_left_do_not_come_back(gallery, monkeypatch):
    gallery.enroll("ann", [[1.0, 0.0]], ["old"])
    delete, calls = gallery._delete, []

    def delete_once(ids):
        if calls:
            raise ConnectionError("the server is gone")
        calls.append(ids)
        delete(ids)

    monkeypatch.setattr(gallery, "_delete", delete_once)
    with pytest.raises(ConnectionError):
        gallery.remove("ann")
    assert gallery.search([[1.0, 0.0]]) == [[]]
    assert "ann" not in gallery
    monkeypatch.undo()
    gallery.enroll("ann", [[0.0, 1.0]], ["new"])
    assert gallery.search([[0.0, 1.0]])[0][0].score == pytest.approx(1.0)
    assert [image.name for image in gallery.images("ann")] == ["new"]


def test_thresholds_are_stored(gallery, rng):
    gallery.enroll_many((str(number), rng.normal(size=(1, 16)), None) for number in range(30))
    impostors = rng.normal(size=(50, 16))
    result = gallery.calibrate(impostors, fpir=0.1)
    assert gallery.thresholds() == {"fpir=0.1": result}
    assert sum(map(bool, gallery.search(impostors, threshold="fpir=0.1"))) == result.accepted == 5
    gallery.enroll_many((str(number), rng.normal(size=(1, 16)), None) for number in range(30, 40))
    with pytest.warns(StaleThresholdWarning, match="calibrated for 30 people"):
        gallery.search(impostors, threshold="fpir=0.1")


def test_another_collection_is_refused(uri):
    with MilvusGallery.open(uri) as gallery:
        client = gallery._client
        client.create_collection("other", dimension=4, id_type="string", max_length=10)
        client.insert("other", [{"id": "1", "vector": [1.0, 0.0, 0.0, 0.0]}])
    with pytest.raises(GalleryFileError, match="collection other must be the collection of a gallery"):
        MilvusGallery.open(uri, collection="other")
    with pytest.raises(ValueError, match=r"collection must be an identifier. Received: collection='a b'"):
        MilvusGallery.open(uri, collection="a b")


def test_a_server_that_does_not_respond_is_named():
    with pytest.raises(ConnectionError, match=r"http://localhost:1, collection people: "):
        MilvusGallery.open("http://localhost:1")
