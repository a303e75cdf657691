"""Results of the client over gRPC and REST."""

import json

import numpy as np
import pytest
import small_models
from conftest import encode
from conftest import make_face
from server_double import ServerDouble

from keras_arcface.serving import FaceClient
from keras_arcface.serving.client import errors


def faces_for(server, count):
    """Returns images of the size of the server's model."""
    with server.client() as client:
        size = tuple(client.metadata()["image_size"])
    if server.double is not None:
        server.double.reset()
    return np.stack([make_face(person, 0, size) for person in range(count)])


@pytest.fixture
def faces(server):
    return faces_for(server, 7)


def assert_close(found, expected, what):
    difference = np.max(np.abs(found.astype(np.float64) - expected))
    print(f"{what}: largest difference {difference:.1e}")
    assert difference < 1e-6


def test_arrays_give_embeddings(server, faces):
    with server.client() as client:
        found = client.embed(faces)
    assert (found.embedding.dtype, found.norm.dtype, found.valid.dtype) == (np.float32, np.float32, bool)
    assert found.norm.shape == found.valid.shape == (7,)
    assert found.valid.all()
    assert_close(np.linalg.norm(found.embedding, axis=1), 1, "length of embeddings")
    if server.projections:
        assert found.version == 2
        embedding, norm = server.projections[2].reference(faces)
        assert_close(found.embedding, embedding, f"{server.protocol}, embedding")
        assert_close(found.norm / norm, 1, f"{server.protocol}, relative norm")


def test_bytes_give_the_embeddings_of_their_pixels(server, faces):
    with server.client() as client:
        found, expected = client.embed([encode(face) for face in faces]), client.embed(faces)
    assert found.valid.all()
    assert_close(found.embedding, expected.embedding, f"{server.protocol}, bytes")
    assert_close(found.norm / expected.norm, 1, f"{server.protocol}, bytes, relative norm")


@pytest.mark.parametrize("as_bytes", [False, True])
def test_both_protocols_give_the_same_bits(as_bytes, both):
    faces = faces_for(both["grpc"], 64)
    images = [encode(face) for face in faces] if as_bytes else faces
    found = {}
    for protocol, server in both.items():
        with server.client() as client:
            found[protocol] = client.embed(images)
    np.testing.assert_array_equal(found["grpc"].embedding, found["rest"].embedding)
    np.testing.assert_array_equal(found["grpc"].norm, found["rest"].norm)
    assert found["grpc"].version == found["rest"].version


@pytest.mark.parametrize("as_bytes", [False, True])
def test_many_images_are_sent_in_batches_and_keep_their_order(as_bytes, server, faces):
    images = [encode(face) for face in faces] if as_bytes else faces
    with server.client(batch_size=3) as client, server.client() as whole:
        found, expected = client.embed(images), whole.embed(images)
        one_by_one = [client.embed(images[row : row + 1]) for row in range(7)]
    assert_close(found.embedding, expected.embedding, f"{server.protocol}, in batches of 3")
    assert_close(np.concatenate([one.embedding for one in one_by_one]), expected.embedding, "one by one")
    # Neighboring embeddings differ, so a swap of rows would be visible.
    assert np.min(np.linalg.norm(expected.embedding[1:] - expected.embedding[:-1], axis=1)) > 1e-3
    if server.double:
        assert [rows for _, rows, _ in server.double.predicted[:3]] == [3, 3, 1]


def test_a_damaged_image_affects_its_own_row_only(server, faces):
    encoded = [encode(face) for face in faces]
    with server.client(batch_size=4) as client:
        good = client.embed(encoded)
        found = client.embed([*encoded[:2], encoded[2][:80], *encoded[3:]])
    others = np.arange(7) != 2
    np.testing.assert_array_equal(found.valid, others)
    np.testing.assert_array_equal(found.embedding[others], good.embedding[others])
    assert not found.embedding[2].any()
    assert found.norm[2] == 0


def test_compare_returns_cosines_and_nan_for_undecodable_images(server, faces):
    encoded = [encode(face) for face in faces]
    with server.client(batch_size=4) as client:
        embedding = client.embed(faces).embedding.astype(np.float64)
        expected = np.sum(embedding * embedding[::-1], axis=1)
        assert_close(client.compare(faces, faces[::-1]), expected, "arrays")
        assert_close(client.compare(encoded, encoded[::-1]), expected, "bytes")
        assert_close(client.compare(faces, encoded[::-1]), expected, "an array and bytes")
        broken = client.compare([b"", *encoded[1:]], [*encoded[:6], b"no image"])
    assert broken.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(broken), [True, False, False, False, False, False, True])
    assert not broken[0] >= -1  # no threshold accepts NaN
    np.testing.assert_allclose(broken[1:6], 1, atol=1e-6)


def test_a_pair_is_one_request(fake):
    faces = faces_for(fake, 2)
    with fake.client() as client:
        client.compare(faces[:1], faces[1:])
        client.compare([encode(faces[0])], [encode(faces[1])])
    assert [rows for _, rows, _ in fake.double.predicted] == [2, 2]


def test_metadata_is_requested_once_per_version(fake):
    with fake.client() as client, fake.client(version=1) as old:
        assert client.metadata() == client.metadata() == json.loads(fake.projections[2].description)
        assert client.metadata(1) == old.metadata() == json.loads(fake.projections[1].description)
    assert [asked for _, _, asked in fake.double.predicted] == [2, 1, 1]


def test_thresholds_are_those_of_the_export(fake):
    with fake.client() as client:
        assert client.threshold(1e-3) == client.threshold(0.001, version=1) == 0.5
        assert client.threshold(0.01) == 0.25
        with pytest.raises(
            errors.ThresholdNotFound, match=r"version 2: far must be .*0\.01, 0\.001.*Received: far=1e-06"
        ):
            client.threshold(1e-6)


def test_without_an_evaluation_there_is_no_threshold(tmp_path):
    (tmp_path / "faces").mkdir()
    small_models.write(small_models.Projection(0, thresholds={}), tmp_path / "faces" / "1")
    told = pytest.raises(errors.ThresholdNotFound, match="none, because the model was exported without an evaluation")
    with ServerDouble(tmp_path) as double, FaceClient(double.grpc) as client, told:
        client.threshold(1e-3)


def test_status_names_the_versions(server):
    with server.client() as client:
        states = client.status()
        assert states[client.wait_until_ready(5)] == "AVAILABLE"
    if server.double:
        assert states == {1: "AVAILABLE", 2: "AVAILABLE"}


@pytest.mark.parametrize(
    ("choice", "version"), [({}, 2), ({"version": 1}, 1), ({"version": 2}, 2), ({"label": "stable"}, 1)], ids=str
)
def test_the_version_or_label_asked_for_answers(choice, version, fake):
    faces = faces_for(fake, 3)
    with fake.client(**choice) as client:
        found = client.embed(faces)
        assert client.wait_until_ready(5) == version
        assert client.metadata()["name"] == f"seed {version}"
    assert found.version == version
    assert_close(found.embedding, fake.projections[version].reference(faces)[0], f"{choice}")


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize(("kept", "version"), [(1, 2), (2, 1)])
def test_one_version_answers_all_images_of_a_call(kept, version, protocol, projections, tmp_path):
    """A new version appears during a call. If it replaces the first one, the call starts again."""
    (tmp_path / "faces").mkdir()
    small_models.write(projections[1], tmp_path / "faces" / "1")
    faces = np.stack([make_face(person, 0, small_models.SIZE) for person in range(5)])
    with ServerDouble(tmp_path, latest=kept, poll_seconds=60) as double:
        answer = double.predict

        def publish_after_the_first(request):
            response = answer(request)
            if len(double.predicted) == 1:
                small_models.write(projections[2], tmp_path / "faces" / "2")
                double.poll()
            return response

        double.predict = publish_after_the_first
        with FaceClient(getattr(double, protocol), batch_size=2) as client:
            found = client.embed(faces)
            assert found.version == version
            assert_close(found.embedding, projections[version].reference(faces)[0], f"version {version}")
            assert client.embed(faces[:1]).version == 2
            assert client.status() == ({1: "END", 2: "AVAILABLE"} if kept == 1 else dict.fromkeys((1, 2), "AVAILABLE"))


def test_messages_of_more_than_4_mib_go_both_ways(server):
    image = encode(faces_for(server, 1)[0], ".jpg")
    large = image + bytes(5 * 2**20)  # decoders ignore bytes after the end of a JPEG
    with server.client() as client:
        found, expected = client.embed([large]), client.embed([image])
    np.testing.assert_array_equal(found.embedding, expected.embedding)


def test_answers_of_more_than_4_mib_come_back(tmp_path):
    (tmp_path / "faces").mkdir()
    model = small_models.Projection(0)
    model.description = json.dumps({"long": "x" * (5 * 2**20)})
    small_models.write(model, tmp_path / "faces" / "1", ("serving_default", "describe"))
    with ServerDouble(tmp_path) as double:
        for address in (double.grpc, double.rest):
            with FaceClient(address) as client:
                assert len(client.metadata()["long"]) == 5 * 2**20
        refused = pytest.raises(errors.UnexpectedResponse, match=r"RESOURCE_EXHAUSTED.*larger than max")
        with FaceClient(double.grpc, max_message_bytes=4 * 2**20) as client, refused:
            client.metadata()


FACE = make_face(0, 0, small_models.SIZE)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (FACE, r"images must be a uint8 RGB array \(n, height, width, 3\)\. Received: images=uint8 \(16, 20, 3\)"),
        (FACE[np.newaxis] / 255, r"Received: images=float64 \(1, 16, 20, 3\)"),
        (FACE[np.newaxis, :, :, :1], r"Received: images=uint8 \(1, 16, 20, 1\)"),
        ([FACE], r"images\[0\] must be an encoded image as bytes.*Received: images\[0\] of type ndarray"),
        ([b"", "face.jpg"], r"images\[1\] must be .*Received: images\[1\] of type str"),
        (b"\xff\xd8\xff", "images must be an array or a sequence of bytes. Received: images of type bytes"),
        ("face.jpg", "images must be an array or a sequence of bytes. Received: images of type str"),
        (None, "Received: images of type NoneType"),
        ([], "images must contain at least one image. Received: an empty images"),
        (np.zeros((0, 16, 20, 3), np.uint8), "images must contain at least one image. Received: an empty images"),
    ],
)
def test_invalid_images_are_refused_before_anything_is_sent(images, message, double):
    with FaceClient(double.grpc) as client, pytest.raises(ValueError, match=message):
        client.embed(images)
    assert double.predicted == []


def test_both_sides_of_a_comparison_have_the_same_number_of_images(double):
    with (
        FaceClient(double.grpc) as client,
        pytest.raises(ValueError, match=r"Received: len\(first\)=2, len\(second\)=1"),
    ):
        client.compare([b"", b""], [b""])
