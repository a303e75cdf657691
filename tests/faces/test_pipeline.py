"""From photos to embeddings, with squares for faces and the mean color for an embedding."""

import numpy as np
import pytest
from conftest import encode
from faces.detectors import SquareDetector
from faces.detectors import photo_with_squares

from keras_arcface.faces import FacePipeline
from keras_arcface.faces import QualityLimits

PHOTOS = [photo_with_squares((20, 30, 60), (200, 100, 100)), photo_with_squares((120, 100, 80)), photo_with_squares()]


def mean_color(images):
    return np.asarray(images, np.float32).mean(axis=(1, 2))


def make_pipeline(**options):
    return FacePipeline(SquareDetector(), mean_color, **options)


def test_results_have_the_order_of_the_photos(tmp_path):
    paths = []
    for number, photo in enumerate(PHOTOS * 3):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode(photo))
    paths[4].write_bytes(b"nothing")
    results = make_pipeline(batch_size=2)([*paths, tmp_path / "absent.png", PHOTOS[1]], progress=False)
    assert [result.photo for result in results] == [*map(str, paths), str(tmp_path / "absent.png"), "10"]
    assert [len(result.faces) for result in results] == [2, 1, 0, 2, 0, 0, 2, 1, 0, 0, 1]
    assert [result.error is None for result in results] == [True] * 4 + [False] + [True] * 4 + [False, True]
    assert "4.png is not a readable photo" in results[4].error
    assert "absent.png must be an existing image file" in results[9].error


def test_each_face_has_its_own_embedding():
    pipeline = make_pipeline(batch_size=1)
    (result,) = pipeline(PHOTOS[:1], progress=False)
    for face in result.faces:
        np.testing.assert_allclose(face.embedding, mean_color(face.crop[np.newaxis])[0], rtol=1e-6)
        assert face.quality.norm == pytest.approx(float(np.linalg.norm(face.embedding)))
        assert face.crop.shape == (112, 112, 3)
    # The mean color shows the share of the square in the crop.
    assert result.faces[0].score > result.faces[1].score


def test_a_stream_reads_only_some_photos_ahead():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield PHOTOS[1]

    stream = make_pipeline(batch_size=1).stream(endless())
    for _ in range(3):
        assert len(next(stream).faces) == 1
    stream.close()
    assert taken <= 25


def test_limits_reject_faces_with_the_reason():
    pipeline = make_pipeline(limits=QualityLimits(min_size=25, min_norm=1))
    (result,) = pipeline(PHOTOS[:1], progress=False)
    assert [face.box[2] for face in result.faces] == [100]
    assert [(face.box[2], face.reason, face.embedding) for face in result.rejected] == [(60, "size is below 25", None)]
    (result,) = make_pipeline(limits=QualityLimits(min_norm=1e6))(PHOTOS[:1], progress=False)
    assert not result.faces
    assert {face.reason for face in result.rejected} == {"norm is below 1e+06"}


def test_the_main_face_is_large_and_central():
    (result,) = make_pipeline()([photo_with_squares((5, 5, 70), (160, 110, 60))], progress=False)
    assert result.main.box[2] == 60
    (result,) = make_pipeline()([photo_with_squares((100, 100, 120), (180, 110, 20))], progress=False)
    assert result.main.box[2] == 120
    assert make_pipeline()([PHOTOS[2]], progress=False)[0].main is None


def test_another_face_does_not_take_the_place_of_a_rejected_main_face():
    photo = photo_with_squares((170, 110, 60), (5, 5, 80))
    pipeline = make_pipeline(limits=QualityLimits(min_size=22), threshold=0.5)
    (result,) = pipeline([photo], progress=False)
    assert [face.box[2] for face in result.faces] == [80]
    assert result.main is None
    with pytest.raises(ValueError, match="the main face is rejected: size is below 22"):
        pipeline.compare(photo, photo)


def test_comparison():
    comparison = make_pipeline(threshold=0.9).compare(PHOTOS[0], encode(PHOTOS[1]))
    assert comparison.same
    assert comparison.score == pytest.approx(1, abs=0.05)
    assert (comparison.first.box[2], comparison.second.box[2], comparison.threshold) == (100, 80, 0.9)
    assert not make_pipeline(threshold=1.1).compare(PHOTOS[0], PHOTOS[1]).same


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ((b"x", PHOTOS[0]), "first must be a readable photo. Received: photo is not"),
        ((PHOTOS[0], PHOTOS[2]), "second must show a face. Received: 1: no face was found"),
    ],
)
def test_comparison_names_the_photo_without_a_face(photos, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(threshold=0.5).compare(*photos)


def test_comparison_requires_a_threshold():
    with pytest.raises(ValueError, match="compare requires a threshold"):
        make_pipeline().compare(PHOTOS[0], PHOTOS[1])


def test_a_keras_model_decides_the_size_of_the_crops(tmp_path):
    import keras

    inputs = keras.Input((48, 48, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    model.save(tmp_path / "embedder.keras")
    for embedder in (model, str(tmp_path / "embedder.keras")):
        pipeline = FacePipeline(SquareDetector(), embedder)
        (result,) = pipeline([PHOTOS[1]], progress=False)
        assert result.faces[0].crop.shape == (48, 48, 3)
        np.testing.assert_allclose(
            result.faces[0].embedding, mean_color(result.faces[0].crop[np.newaxis])[0], rtol=1e-5
        )
    assert len(pipeline.embedder_sha256) == 64
    with pytest.raises(ValueError, match="embedder must be a Keras model or a FaceClient, whose weights have a hash"):
        _ = make_pipeline().embedder_sha256


def test_the_hash_of_an_embedder_changes_with_its_weights():
    import keras

    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    before = FacePipeline(SquareDetector(), model).embedder_sha256
    assert FacePipeline(SquareDetector(), keras.models.clone_model(model)).embedder_sha256 != before
    assert FacePipeline(SquareDetector(), model).embedder_sha256 == before


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_server_and_its_embedder_have_the_same_hash_if_their_embeddings_are_equal(mirrored):
    import keras

    from keras_arcface.serving import FaceClient
    from keras_arcface.serving.embedder_facts import embedder_facts

    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])

    class Client(FaceClient):
        def __init__(self):
            pass

        def metadata(self, version=None, timeout=None):
            return embedder_facts(model, mirrored)

        def close(self):
            pass

    served, local = (FacePipeline(SquareDetector(), embedder).embedder_sha256 for embedder in (Client(), model))
    assert (served == local) == (not mirrored)
    assert len(served) == 64


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match="embedder must be the name of a published network"):
        FacePipeline(SquareDetector(), 5)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        make_pipeline(batch_size=0)
