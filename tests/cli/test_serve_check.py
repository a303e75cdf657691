"""The command `keras-arcface serve-check` against the test double."""

import json

import pytest
import small_models
from server_double import ServerDouble

from keras_arcface.cli.main import main


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    (base / "faces").mkdir()
    small_models.write(small_models.Projection(1), base / "faces" / "1")
    with ServerDouble(base, labels={"stable": 1}) as double:
        yield double


def test_a_healthy_server(double, capsys):
    assert main(["serve-check", double.grpc, double.rest, "--label", "stable"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["check", "protocol", "result", "expected", "received"]
    assert "\nmodel faces, version 1: " in printed.out
    assert ", 0 failed, " in printed.out
    assert printed.err == ""


def test_an_export_that_is_not_served(double, tmp_path, capsys):
    small_models.write(small_models.Projection(2), tmp_path / "1")
    assert main(["serve-check", double.grpc, "--export", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"compared with {tmp_path / '1'} (tolerance 0.0001)" in printed
    assert "[1] unknown: the smallest cosine with the export's embeddings is" in printed


def test_json(double, capsys):
    assert main(["serve-check", double.rest, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["addresses"] == [double.rest]
    assert report["checks"][0]["check"] == "connection"


def test_a_closed_port(capsys):
    assert main(["serve-check", "http://localhost:1", "--retries", "0"]) == 1
    assert "[1] nothing listens at this port" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["localhost:8500"], "error: address must have one of the forms grpc://host:8500"),
        (["grpc://localhost:8500", "grpc://localhost:8501"], "error: addresses must be one of gRPC and one of HTTP"),
        (["http://localhost:1", "--export", "nowhere"], "error: export must be a SavedModel"),
        (["http://localhost:1", "--timeout", "0"], "error: timeout must be above 0"),
    ],
)
def test_mistakes_are_errors(options, message, capsys):
    assert main(["serve-check", *options]) == 1
    assert capsys.readouterr().err.startswith(message)
