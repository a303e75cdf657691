"""Limits and checks of answers, and of the answers of one call together."""

import json

import bad_servers
import hostile_answers
import numpy as np
import pytest
from hostile_answers import predicted
from hostile_answers import tensor

from keras_arcface.serving import FaceClient
from keras_arcface.serving.client import answer_checks
from keras_arcface.serving.client import errors

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def embed_in_batches(answers, **options):
    """Returns the embeddings of four images, in two batches with these answers."""
    answers = iter(answers)
    with (
        bad_servers.grpc_server(lambda method, context: next(answers)) as port,
        FaceClient(f"grpc://127.0.0.1:{port}", batch_size=2, retries=0, **options) as client,
    ):
        return client.embed(IMAGES)


def test_batches_of_a_call_come_from_one_version():
    assert embed_in_batches([predicted(3)] * 2).version == 3
    with pytest.raises(errors.UnexpectedResponse, match=r"expected an answer of version 3. Received: .* version 4"):
        embed_in_batches([predicted(3), predicted(4)])
    with pytest.raises(errors.UnexpectedResponse, match=r"expected an answer of version 4. Received: .* version 3"):
        embed_in_batches([predicted(3)], version=4)


def test_embeddings_of_a_call_have_one_size():
    longer = predicted(embedding=tensor([[1, 0, 0, 0]] * 2))
    with pytest.raises(errors.UnexpectedResponse, match=r"embeddings of one size .*Received: sizes \[3, 4\]"):
        embed_in_batches([predicted(), longer])


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("size", [answer_checks.MAX_EMBEDDING_SIZE, answer_checks.MAX_EMBEDDING_SIZE + 1])
def test_the_largest_embeddings(size, protocol):
    rows = np.full((2, size), np.float32(size) ** -0.5)
    if protocol == "grpc":
        answer = predicted(embedding=tensor(rows))
    else:
        answer = hostile_answers.outputs(embedding=rows.tolist())
    case = hostile_answers.Case("largest", "embed", answer)
    if size == answer_checks.MAX_EMBEDDING_SIZE:
        np.testing.assert_array_equal(hostile_answers.call(case, protocol).embedding, rows)
    else:
        with pytest.raises(errors.UnexpectedResponse, match="expected embeddings of 1 to 8192 numbers"):
            hostile_answers.call(case, protocol)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("long", "expected a response of at most 461,248 bytes. Received: more"),
        ("a million lists", "expected a response of at most"),
        ("lists in a row", r"expected 2 rows. Received: embedding \(2, 4001, 0\)"),
        ("gzip of 256 MiB", "expected content without compression"),
        ("nested lists", "expected JSON. Received: JSON that is too deeply nested"),
        ("chunk of -1", "no response after 1 attempt.*IncompleteRead"),
    ],
)
def test_limits_of_rest(case, message):
    check(hostile_answers.REST, "rest", case, message)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("long", "RESOURCE_EXHAUSTED.*larger than max"),
        ("compressed 32 MiB", "Compression algorithm 'gzip' is disabled"),
        ("one value for (2, 3e8)", "expected embeddings of 1 to 8192 numbers"),
        ("one value for (2, 3)", r"expected embedding with 6 values for the shape \(2, 3\). Received: 1 values"),
        ("values and content", "expected embedding with values in one field"),
    ],
)
def test_limits_of_grpc(case, message):
    check(hostile_answers.GRPC, "grpc", case, message)


def check(cases, protocol, name, message):
    (case,) = (case for case in cases if case.name == name)
    with pytest.raises(errors.ServingError, match=message):
        hostile_answers.call(case, protocol)


def test_the_number_of_values_is_limited_before_json_is_parsed():
    text = json.dumps([[]] * 1000)
    assert answer_checks.load_json(text, 2001) == [[]] * 1000
    with pytest.raises(ValueError, match=r"expected JSON with at most 1,999 values. Received: more"):
        answer_checks.load_json(text.encode(), 1999)


def test_limits_grow_with_the_number_of_images():
    for limit in (answer_checks.max_bytes, answer_checks.max_values):
        assert limit("serve_bytes", 1) < limit("serve_bytes", 2) < limit("serve_bytes", 4)
        assert limit("describe", 1) == limit(None, 0)
    numbers = json.dumps([-1.23456789e-38] * answer_checks.MAX_EMBEDDING_SIZE)
    assert len(numbers) < answer_checks.max_bytes("serve_bytes", 1)


@pytest.mark.parametrize(("valid", "row"), [(True, 1), (False, 0)])
def test_rows_are_named(valid, row):
    embedding, norm = np.array([[1, 0], [0.5, 0]], np.float32), np.ones(2, np.float32)
    with pytest.raises(ValueError, match=f"row {row}: expected "):
        answer_checks.check_embeddings(embedding, norm, np.full(2, valid))
