"""Twelve mistakes of users: each ends with one message that names it, and without a traceback."""

import http.server
import os
import sys
import threading

import keras
import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface import _optional
from keras_arcface import data
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder

SMALL = ("--recipe", "small", "--width", 8, "--steps", 1)


def faces(directory, people=3, images=2, size=112):
    for person in range(people):
        (directory / str(person)).mkdir(parents=True)
        for image in range(images):
            face = make_face(person, image, (size, size))
            (directory / str(person) / f"{image}.png").write_bytes(encode(face))
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with an embedder for 112 x 112 pixels, datasets and verification sets."""
    directory = tmp_path_factory.mktemp("mistakes")
    make_embedder(IResNet((1, 1), width=8), dim=8).save(directory / "embedder.keras")
    for name, people, images in (("dataset", 3, 2), ("one_person", 1, 2), ("two_images", 2, 1)):
        data.write_dataset(data.ImageFolder(faces(directory / f"{name}_faces", people, images)), directory / name)
    pairs = [encode(make_face(person, image, (160, 160))) for person in range(20) for image in range(2)]
    data.PairSet(pairs, np.arange(20) % 2 == 0).save(directory / "large.npz")
    (directory / "note.jpg").write_text("not an image\n")
    (directory / "embedder.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return directory


@pytest.fixture
def fails(run):
    """Runs a command that must fail. Returns and prints its message."""

    def fails(*arguments, code=1):
        ended = run(*arguments)
        print("keras-arcface", *arguments)
        print(ended.err)
        assert ended.code == code, ended
        assert "Traceback" not in ended.err
        lines = ended.err.splitlines()
        return next(line for line in lines if line.startswith("error: ")) + "".join(lines[1:])

    return fails


def test_wrong_path(fails, tmp_path):
    for command in (
        ("convert", "nowhere", tmp_path / "out"),
        ("check", "nowhere"),
        ("train", "--data", "nowhere"),
        ("export", "saved-model", "nowhere", tmp_path / "out"),
        ("ask", "grpc://localhost:1", "nowhere", "nowhere"),
    ):
        assert fails(*command).startswith("error: No such file or directory: nowhere")


def test_images_of_another_size(fails, files, tmp_path):
    message = fails("evaluate", files / "embedder.keras", "--pairs", files / "large.npz", "--output", tmp_path)
    assert "embedder.keras expects images of 112 x 112 pixels (height x width). Received: 160 x 160" in message
    options = ("--data", files / "dataset", "--verify", files / "large.npz", "--output", tmp_path / "out", *SMALL)
    message = fails("train", *options)
    assert "--verify large: expected images of 112 x 112 (height x width), the size of the training images" in message


def test_one_class(fails, files, tmp_path):
    message = fails("train", "--data", files / "one_person", "--output", tmp_path / "out", *SMALL)
    assert "one_person: training requires at least two classes. Received: 1" in message


def test_two_images(fails, files, tmp_path):
    data.PairSet([encode(make_face(0, image, (112, 112))) for image in range(2)], [True]).save(tmp_path / "two.npz")
    message = fails("evaluate", files / "embedder.keras", "--pairs", tmp_path / "two.npz", "--output", tmp_path)
    assert "same must contain both genuine and impostor pairs. Received: 1 genuine and 0 impostor pairs" in message


def test_unknown_recipe(fails, files):
    assert fails("train", "--data", files / "dataset", "--recipe", "smal").endswith("Did you mean small?")


def test_typing_error_in_an_option(fails, files):
    message = fails("train", "--data", files / "dataset", "--lerning-rate", 0.1, code=2)
    assert message.startswith("error: unrecognized arguments: --lerning-rate 0.1. Did you mean --learning-rate?")


def test_missing_extra(fails, files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    message = fails("export", "onnx", files / "embedder.keras", tmp_path / "model.onnx")
    assert "pip install 'keras-arcface[onnx]'" in message
    monkeypatch.setattr(_optional, "is_installed", lambda module: False)
    message = fails("evaluate", "pixels", "--pairs", files / "large.npz", "--output", tmp_path)
    assert "pip install 'keras-arcface[plots]'" in message


def test_wrong_backend(fails, files, tmp_path, monkeypatch):
    message = fails("train", "--data", files / "dataset", "--strategy", "jax", "--output", tmp_path / "out")
    assert "--strategy jax requires the backend JAX" in message
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = fails("export", "saved-model", files / "embedder.keras", tmp_path / "out")
    assert "TensorFlow backend" in message


class Website(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_port_of_another_server(fails, tmp_path):
    (tmp_path / "face.png").write_bytes(encode(make_face(0, 0, (112, 112))))
    server = http.server.ThreadingHTTPServer(("localhost", 0), Website)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://localhost:{server.server_port}"
    try:
        message = fails("ask", address, tmp_path / "face.png", tmp_path / "face.png")
    finally:
        server.shutdown()
        server.server_close()
    assert address in message
    assert "HTTP 404" in message
    assert "the address may be that of another kind of server" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(fails, files, tmp_path):
    tmp_path.chmod(0o500)
    message = fails("train", "--data", files / "dataset", "--output", tmp_path / "out", *SMALL)
    assert message == f"error: [Errno 13] Permission denied: '{tmp_path / 'out'}'"


def test_path_below_a_file(fails, files):
    """Like a missing permission, the folder cannot be created."""
    message = fails("train", "--data", files / "dataset", "--output", files / "note.jpg" / "out", *SMALL)
    assert "Not a directory" in message
    assert "note.jpg" in message


def test_h5_file(fails, files, tmp_path):
    message = fails("export", "saved-model", files / "embedder.h5", tmp_path / "out")
    assert "embedder.h5" in message
    message = fails("evaluate", files / "embedder.h5", "--pairs", files / "large.npz", "--output", tmp_path)
    assert "embedder.h5" in message


def test_text_file_as_image(fails, files, tmp_path):
    folder = faces(tmp_path / "faces")
    (folder / "1" / "0.png").write_text("not an image\n")
    assert "1/0.png is not a readable image" in fails("convert", folder, tmp_path / "out")
    assert "note.jpg" in fails("convert", files / "note.jpg", tmp_path / "out")
