"""The command `keras-arcface server-config`."""

import json
import shlex
from pathlib import Path

import pytest
from server_protos import flags_of
from server_protos import parse
from server_protos import parse_models


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version in (2, 3, 4):
        (tmp_path / "models" / "faces" / str(version)).mkdir(parents=True)
        (tmp_path / "models" / "faces" / str(version) / "saved_model.pb").touch()
    return tmp_path / "models" / "faces"


@pytest.mark.parametrize("sizes", [["1,8"], ["1", "8"]], ids=["comma", "space"])
def test_writes_the_files(sizes, base, tmp_path, run):
    options = ["--versions", "faces=3,4", "--label", "faces:stable=3", "--label", "faces:canary=4", "--device", "gpu"]
    done = run("server-config", "config", "faces=models/faces", f"cars={base}", *options, "--batch-sizes", *sizes)
    assert done.code == 0, done.err
    models = parse_models(tmp_path / "config" / "models.config")
    assert {name: model.base_path for name, model in models.items()} == {"faces": str(base), "cars": str(base)}
    assert dict(models["faces"].version_labels) == {"stable": 3, "canary": 4}
    assert list(models["faces"].model_version_policy.specific.versions) == [3, 4]
    assert parse("BatchingParameters", (tmp_path / "config" / "batching.config").read_text()).max_batch_size.value == 8
    server, docker, written = done.out.split("\n\n")
    assert shlex.split(server)[0] == "tensorflow_model_server"
    assert "--gpus=all" in shlex.split(docker)
    assert all(Path(line.strip()).is_file() for line in written.splitlines()[1:])


def test_json(base, run):
    options = ["--grpc-port", 9000, "--reload-seconds", 5, "--image", "own/image"]
    done = run("server-config", "config", f"faces={base}", *options, "--json")
    found = json.loads(done.out)
    assert found["server"][0] == "tensorflow_model_server"
    flags = flags_of(found["server"][1:])
    assert (flags["port"], flags["model_config_file_poll_wait_seconds"]) == ("9000", "5")
    assert "own/image" in found["docker"]
    assert all(Path(file).is_file() for file in found["files"])


def test_tls(base, tmp_path, run):
    for name in ("key", "certificate", "authority"):
        kind = "PRIVATE KEY" if name == "key" else "CERTIFICATE"
        (tmp_path / f"{name}.pem").write_text(f"-----BEGIN {kind}-----\nabc+/=\n-----END {kind}-----\n")
    options = ["--tls", "key.pem", "certificate.pem", "--client-ca", "authority.pem"]
    done = run("server-config", "config", f"faces={base}", *options)
    assert done.code == 0, done.err
    assert "ssl" in done.out
    assert run("server-config", "other", f"faces={base}", *options[3:]).code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["faces"], "error: Arguments must have the form NAME=BASE. Received: 'faces'"),
        (["faces=a", "faces=b"], "error: models must have different names. Received: models=faces=a faces=b"),
        (["faces=models/faces", "--label", "cars:stable=3"], "must name one of ['faces']. Received: ['cars']"),
        (["faces=models/faces", "--versions", "faces=newest"], "error: Model 'faces': versions must be"),
        (["faces=models/faces", "--label", "faces:stable=9"], "models/faces, [2, 3, 4]. Received: "),
        (["faces=models/faces", "--label", "faces:stable=new"], "the number of a version. Received: faces:stable=new"),
        (
            ["faces=models/faces", "--label", "faces:stable=3", "--label", "faces:stable=4"],
            "error: --label must have one version per label. Received: faces:stable twice",
        ),
        (
            ["faces=models/faces", "--versions", "faces=3", "--versions", "faces=4"],
            "error: --versions must have one value per model. Received: faces twice",
        ),
        (["faces=models/faces", "--batch-sizes", "8,1"], "batch_sizes must be ascending integers"),
    ],
)
@pytest.mark.usefixtures("base")
def test_invalid_arguments_are_named(arguments, expected, tmp_path, run):
    done = run("server-config", "other", *arguments)
    assert (done.code, expected in done.err) == (1, True), done.err
    assert not (tmp_path / "other").exists()
