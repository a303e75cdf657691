"""Checks of the test double itself, with an independent client, plain gRPC stubs and plain HTTP."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import rest_double
import small_models
import tensorflow as tf
from conftest import encode
from conftest import make_face
from server_double import ServerDouble
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_arcface.serving import FaceClient
from keras_arcface.serving import ServedModel
from keras_arcface.serving.client.grpc_transport import _to_tensor
from keras_arcface.serving.deploy import text_proto

FACES = np.stack([make_face(person, 0, small_models.SIZE) for person in range(3)])


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_an_independent_client_gets_the_same_results(protocol, double):
    clients = pytest.importorskip(
        "ovmsclient", reason="the independent client is absent: pip install --no-deps ovmsclient"
    )
    make = {"grpc": clients.make_grpc_client, "rest": clients.make_http_client}[protocol]
    theirs = make(getattr(double, protocol).split("://")[1])
    for version in (1, 2):  # it always sends a version; its own server reads 0 as the latest
        assert theirs.get_model_status("faces", version)[version]["state"] == "AVAILABLE"
        if protocol == "grpc":  # over REST it understands only the metadata of its own server
            assert set(theirs.get_model_metadata("faces", version)["inputs"]) == {"images"}
        answer = theirs.predict(inputs={"images": FACES}, model_name="faces", model_version=version)
        with FaceClient(double.grpc, version=version) as client:
            expected = client.embed(FACES)
        np.testing.assert_array_equal(np.asarray(answer["embedding"], np.float32), expected.embedding)
        np.testing.assert_array_equal(np.asarray(answer["norm"], np.float32), expected.norm)
    with pytest.raises(Exception, match="faces, 7"):
        theirs.predict(inputs={"images": FACES}, model_name="faces", model_version=7)


def test_numbers_are_sent_as_fields(double):
    with grpc.insecure_channel(double.grpc.removeprefix("grpc://")) as channel:
        request = predict_pb2.PredictRequest(output_filter=["norm"])
        request.model_spec.name = "faces"
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(FACES))
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=10)
    assert list(response.outputs) == ["norm"]
    assert len(response.outputs["norm"].float_val) == 3
    assert not response.outputs["norm"].tensor_content
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "serving_default")


def test_rows_and_columns_in_json(double, projections):
    url = f"{double.rest}/v1/models/faces/labels/canary:predict"
    by_column = requests.post(url, json={"inputs": FACES.tolist()}, timeout=10).json()["outputs"]
    by_row = requests.post(url, json={"instances": FACES.tolist()}, timeout=10).json()["predictions"]
    assert [row["norm"] for row in by_row] == by_column["norm"]
    np.testing.assert_allclose(by_column["embedding"], projections[2].reference(FACES)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{", "JSON Parse error"),
        ("[" * 100_000, "JSON Parse error"),
        ("[]", "Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"inputs": [], "instances": []}', "expecting only one of"),
        ('{"inputs": {"pictures": []}}', "Missing named input: images in 'inputs' object"),
        ('{"inputs": [[1, 2], [3]]}', "unexpected size: 1 at level: 1 expected size: 2"),
        ('{"inputs": [[1, 2.5]]}', "2.5 is not of expected type: uint8"),
        ('{"signature_name": "x", "inputs": []}', 'Serving signature name: "x" not found in signature def'),
        ('{"signature_name": "serve_bytes", "inputs": [{"b64": "?"}]}', "Unable to base64 decode"),
        ('{"signature_name": "serve_bytes", "inputs": [{"b64": "", "x": 1}]}', "not formatted correctly for base64"),
    ],
)
def test_invalid_json_is_refused(body, told, double):
    answer = requests.post(f"{double.rest}/v1/models/faces:predict", data=body, timeout=10)
    assert answer.status_code == 400
    assert told in answer.json()["error"]


def test_floats_have_the_servers_number_of_digits():
    """Compares with the server's documentation and tests, and checks that every float32 is restored."""
    for value, text in [(0.2, "0.2"), (9000000, "9e+06"), (0.00003, "3e-05"), (1, "1.0"), (np.nan, "NaN")]:
        assert rest_double.decimal(np.float32(value)) == text
    bits = np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    for value in bits[np.isfinite(bits)]:
        assert np.float32(json.loads(rest_double.decimal(value))) == value


def test_bytes_keep_trailing_zeros():
    tensor = _to_tensor([b"a\0\0", b"", b"\0"])
    assert list(tensor.string_val) == [b"a\0\0", b"", b"\0"]
    assert rest_double._read_tensor([{"b64": "YQAA"}], tf.string).string_val[0] == b"a\0\0"


def test_published_and_removed_versions_are_noticed(projections, tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    small_models.write(projections[1], folder / "1")
    with ServerDouble(tmp_path, poll_seconds=60) as double, FaceClient(double.grpc) as client:
        assert client.embed(FACES).version == 1
        small_models.write(projections[2], folder / "2")
        (folder / "tmp-3").mkdir()
        double.poll()
        assert client.embed(FACES).version == 2
        assert client.status() == {1: "END", 2: "AVAILABLE"}
        (folder / "3").mkdir()  # an empty version cannot be loaded, so the older one stays
        double.poll()
        assert client.embed(FACES).version == 2
        assert client.status()[3] == "END"
        shutil.rmtree(folder / "3")
        shutil.rmtree(folder / "2")
        double.poll()
        assert client.embed(FACES).version == 1
        assert client.status() == {1: "AVAILABLE", 2: "END", 3: "END"}


def test_a_configuration_is_reloaded(projections, tmp_path):
    """The rules of ServerCore::UpdateModelVersionLabelMap with allow_version_labels_for_unavailable_models."""
    config = tmp_path / "models.config"

    def configure(versions, labels):
        served = ServedModel("faces", tmp_path / "absent", versions, labels)
        lines = text_proto.message("model_config_list", served.to_text_proto("/models/faces"))
        config.write_text("\n".join(lines))

    (tmp_path / "faces").mkdir()
    for version in (1, 2):
        small_models.write(projections[version], tmp_path / "faces" / str(version))
    configure([1], {"stable": 1})
    with ServerDouble(tmp_path, poll_seconds=60, config=config) as double, FaceClient(double.grpc) as client:
        seen = []
        for versions, labels in [([1, 2], {"stable": 2}), ([1, 2], {"stable": 1, "canary": 2}), ([2], {"stable": 2})]:
            configure(versions, labels)
            double.poll()
            seen.append((client.status(), double.labels, double.config_error is None))
    assert seen == [
        ({1: "AVAILABLE"}, {"stable": 1}, False),  # an existing label moves only to an available version
        ({1: "AVAILABLE", 2: "AVAILABLE"}, {"stable": 1, "canary": 2}, True),  # a new label does not have to wait
        ({1: "END", 2: "AVAILABLE"}, {"stable": 2}, True),
    ]


def test_the_command_line(models):
    script = Path(__file__).with_name("server_double.py")
    options = ["--grpc-port", "0", "--rest-port", "0", "--label", "stable=1", "--latest", "2"]
    command = [sys.executable, str(script), str(models), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            line = process.stdout.readline()
            print(line)
            for address in line.split()[-2:]:
                with FaceClient(address, label="stable") as client:
                    assert client.embed([encode(face) for face in FACES]).version == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
