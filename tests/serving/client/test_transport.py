"""Contract of the transports."""

import pytest
from model_double import State

from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.connection import connect
from keras_arcface.serving.client.grpc_transport import GrpcTransport
from keras_arcface.serving.client.rest_transport import RestTransport
from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import TensorSpec
from keras_arcface.serving.client.transport import Transport
from keras_arcface.serving.client.transport import TransportError


@pytest.fixture(params=["grpc", "rest"])
def transport(request, double):
    transport = connect(getattr(double, request.param), "faces", None, PemFiles(), 2**20, 32)
    yield transport
    transport.close()
    transport.close()  # allowed


def test_the_address_selects_the_transport(double):
    for address, kind in ((double.grpc, GrpcTransport), (double.rest, RestTransport)):
        transport = connect(address, "faces", None, PemFiles(), 2**20, 32)
        assert type(transport) is kind
        transport.close()


def test_a_transport_must_implement_every_method():
    with pytest.raises(TypeError, match=r"close.*predict.*resolve.*signatures.*version_errors.*version_states"):
        Transport()


def test_requests_without_a_version_go_to_the_latest(transport):
    version, signatures = transport.resolve(None, 10)
    assert version == 2
    assert set(signatures) == {"serving_default", "serve_bytes", "describe"}
    assert transport.resolve(1, 10)[0] == 1
    outputs, version = transport.predict("describe", {"request": [b""]}, None, 10)
    assert len(outputs) == 1
    assert version == (2 if transport.reports_version else None)
    assert transport.predict("describe", {"request": [b""]}, 1, 10)[1] == 1
    assert transport.version_states(10) == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_signatures_are_described_alike_over_both_protocols(transport):
    signatures = transport.signatures(1, 10)
    assert set(signatures) == {"serving_default", "serve_bytes", "describe"}
    inputs, outputs = signatures["serve_bytes"]
    assert inputs == {"image_bytes": TensorSpec("string", (None,))}
    assert outputs["embedding"] == TensorSpec("float32", (None, 24))
    assert outputs["norm"].dtype == "float32"
    assert outputs["valid"] == TensorSpec("bool", outputs["valid"].shape)
    assert str(signatures["serving_default"].inputs["images"]) == "uint8 (n, 16, 20, 3)"
    assert str(TensorSpec("bool", None)) == "bool (...)"


def test_messages_of_versions_that_did_not_load(transport, double):
    assert transport.version_errors(10) == {}
    double._versions.states[9] = (State.END, "Op type not registered 'A'\n")
    try:
        assert transport.version_errors(10) == {9: "Op type not registered 'A'\\n"}
    finally:
        del double._versions.states[9]


def test_failed_requests_raise_transport_errors(transport, double):
    for call, kind in (
        (lambda: transport.resolve(7, 10), FailureKind.NOT_FOUND),
        (lambda: transport.predict("describe", {"absent": [b""]}, 1, 10), FailureKind.REFUSED),
    ):
        with pytest.raises(TransportError) as caught:
            call()
        assert caught.value.kind is kind
    double.delay = 5
    with pytest.raises(TransportError) as caught:
        transport.predict("describe", {"request": [b""]}, 1, 0.1)
    assert caught.value.kind is FailureKind.TIMEOUT
    double.delay = 0
    assert transport.predict("describe", {"request": [b""]}, 1, 10)[1] == 1  # the connection is usable again
