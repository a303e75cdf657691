"""The command `keras-arcface ask`, against the test double of a server."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_models
from conftest import encode
from conftest import make_face
from server_double import ServerDouble

from keras_arcface import serving
from keras_arcface.cli.ask import meaning_of


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """Version 2 has thresholds; version 1, `stable`, was exported without an evaluation."""
    base = tmp_path_factory.mktemp("models")
    (base / "faces").mkdir()
    small_models.write(small_models.Projection(1, thresholds={}), base / "faces" / "1")
    small_models.write(small_models.Projection(2), base / "faces" / "2")
    with ServerDouble(base, labels={"stable": 1}, latest=None) as double:
        yield double


@pytest.fixture
def images(tmp_path):
    """Writes two images of one person, one of another person, and a file that is not an image."""
    faces = {"first": (0, 0), "again": (0, 1), "other": (1, 0)}
    for name, (person, image) in faces.items():
        (tmp_path / f"{name}.png").write_bytes(encode(make_face(person, image, small_models.SIZE)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


@pytest.fixture
def ask(run, double, images):
    """Runs the command on two of the images."""

    def ask(first, second, *options, address=double.grpc):
        return run("ask", address, *[images / f"{name}.png" for name in (first, second)], *options)

    return ask


def test_an_interval_without_the_number_of_pairs_is_not_shown():
    meaning = meaning_of({"requested_far": 0.01, "far_interval": [0.1, 0.2]})
    assert meaning == "accepts one impostor in 100 (FAR 0.01)"


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize(("second", "verdict"), [("again", "the same person"), ("other", "not the same person")])
def test_two_faces_are_compared(second, verdict, protocol, double, ask):
    code, out, error = ask("first", second, "--far", "0.01", address=getattr(double, protocol))
    assert code == 0, error
    lines = out.splitlines()
    assert lines[0] == "model faces, version 2"
    assert lines[2:4] == [
        "threshold  0.2500, accepts one impostor in 100 (FAR 0.01);",
        "          measured with 29 of 3,000 impostor pairs: FAR between 0.0065 and 0.014 with 95% confidence",
    ]
    assert lines[4:] == ["alignment of the training faces: not stated", verdict]
    faces = [make_face(*which, small_models.SIZE) for which in ((0, 0), (0, 1) if second == "again" else (1, 0))]
    embedding, _ = small_models.Projection(2).reference(np.stack(faces))
    assert float(lines[1].split()[1]) == pytest.approx(float(embedding[0] @ embedding[1]), abs=1e-4)


def test_threshold_option(ask):
    code, out, error = ask("first", "again", "--label", "stable", "--threshold", "1.1")
    assert code == 0, error
    assert out.startswith("model faces, version 1\n")
    assert "\nthreshold  1.1000, set by --threshold\nalignment of the training faces" in out
    assert out.endswith("\nnot the same person\n")


def test_the_options_are_those_of_the_client(ask, monkeypatch):
    pem = {"certificates": "root.pem", "client_certificate": "client.pem", "client_key": "client.key"}
    given = {**pem, "timeout": 3.0, "retries": 0, "model": "cars", "version": 4}
    received = {}

    def make(address, **options):
        received.update(options)
        raise ValueError("stop")

    monkeypatch.setattr(serving, "FaceClient", make)
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert ask("first", "again", *options).err == "error: stop\n"
    assert received == {**given, **{name: Path(value) for name, value in pem.items()}, "label": None}


def test_json(ask):
    found = json.loads(ask("first", "again", "--far", "0.01", "--json").out)
    assert -1 < found.pop("cosine") < 1
    assert found == {
        **{"model": "faces", "version": 2, "requested_far": 0.01, "alignment": None, "same": True},
        **small_models.THRESHOLDS["0.01"],
    }
    found = json.loads(ask("first", "other", "--threshold", "-1", "--json").out)
    assert (found["threshold"], found["same"], "far" in found) == (-1, True, False)


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        (
            "broken",
            (),
            "broken.png could not be decoded by the server. Expected: a JPEG or PNG, or one of the BMP files",
        ),
        ("absent", (), "No such file or directory: "),
        ("again", ("--far", "1e-6"), "Available: 0.01, 0.001. Received: far=1e-06. Set --threshold, or another --far"),
        ("again", ("--label", "stable"), "exported without an evaluation. Received: far="),
        ("again", ("--model", "nobody"), "model 'nobody'"),
    ],
    ids=["broken", "absent", "far", "uncalibrated", "model"],
)
def test_errors_are_printed(second, options, message, ask):
    code, out, error = ask("first", second, *options)
    assert (code, out) == (1, "")
    assert error.startswith("error: ")
    assert message in error
