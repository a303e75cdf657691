import json

import numpy as np
import pytest
import tensorflow as tf

from keras_arcface.serving.saved_model import warmup

SIGNATURES = ("serving_default", "serve_bytes", "compare", "describe")


@pytest.fixture
def requests():
    return warmup.make_requests(SIGNATURES, (20, 24), (1, 3))


def test_every_signature_has_every_batch_size(requests):
    assert [(request.signature, len(next(iter(request.inputs.values())))) for request in requests] == [
        (name, size) for size in (1, 3) for name in SIGNATURES
    ]
    assert requests[4].inputs["images"].shape == (3, 20, 24, 3)


def test_repeated_calls_return_the_same_requests(requests):
    again = warmup.make_requests(SIGNATURES, (20, 24), (1, 3))
    for one, other in zip(requests, again, strict=True):
        for name, value in one.inputs.items():
            np.testing.assert_array_equal(value, other.inputs[name])


def test_the_official_proto_reads_them(requests, tmp_path):
    pytest.importorskip("tensorflow_serving", reason="PredictionLog comes with tensorflow-serving-api, which is absent")
    from tensorflow_serving.apis import prediction_log_pb2

    warmup.write_requests(tmp_path / "extra" / "file", requests)
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(tmp_path / "extra" / "file")).as_numpy_iterator()
    ]
    assert [log.predict_log.request.model_spec.signature_name for log in logs] == 2 * list(SIGNATURES)
    np.testing.assert_array_equal(
        tf.make_ndarray(logs[4].predict_log.request.inputs["images"]), requests[4].inputs["images"]
    )
    for one, other in zip(requests, warmup.read_requests(tmp_path / "extra" / "file"), strict=True):
        assert one.signature == other.signature
        assert sorted(one.inputs) == sorted(other.inputs)
        for name, value in one.inputs.items():
            np.testing.assert_array_equal(value, other.inputs[name])
            assert type(value) is type(other.inputs[name])


@pytest.mark.parametrize("content", [b"this is no TFRecord file", bytes(100)])
def test_a_damaged_file_is_named(content, tmp_path):
    pytest.importorskip("tensorflow_serving", reason="PredictionLog comes with tensorflow-serving-api, which is absent")
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file is damaged: .*(corrupted|truncated) record at 0"):
        warmup.read_requests(tmp_path / "file")


def test_embeddings_that_are_not_finite_are_refused(requests):
    with pytest.raises(ValueError, match=r"embeddings of 'blind' must be finite.*Received: norms \[nan"):
        warmup.expected_outputs(requests, lambda images: np.full((len(images), 5), np.nan), {"name": "blind"})


def test_the_answers_are_those_of_the_embedder(requests):
    def embed(images):
        return images.reshape(len(images), -1)[:, :5].astype(np.float32)

    answers = warmup.expected_outputs(requests, embed, {"name": "small"})
    raw = embed(requests[4].inputs["images"])
    np.testing.assert_allclose(answers[4]["norm"], np.sqrt(np.sum(raw**2, axis=1)), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(answers[4]["embedding"], axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(answers[5]["valid"], [True, True, False])
    # The first image is a PNG, which is lossless.
    np.testing.assert_array_equal(answers[5]["embedding"][0], answers[4]["embedding"][0])
    assert not answers[5]["embedding"][2].any()
    assert answers[5]["norm"][2] == 0
    first, second = (embed(requests[6].inputs[name]) for name in ("images_a", "images_b"))
    cosines = np.sum(first * second, axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    np.testing.assert_allclose(answers[6]["cosine"], cosines, rtol=1e-5)
    assert [json.loads(text) for text in answers[7]["metadata"]] == [{"name": "small"}] * 3
