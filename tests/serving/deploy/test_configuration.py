import errno
import os
import shutil
from pathlib import Path

import pytest
from google.protobuf import json_format
from server_protos import flags_of
from server_protos import parse
from server_protos import parse_models

from keras_arcface.serving.deploy import configuration
from keras_arcface.serving.deploy.batching_parameters import Batching
from keras_arcface.serving.deploy.configuration import Tls
from keras_arcface.serving.deploy.configuration import write_configuration
from keras_arcface.serving.deploy.served_models import ServedModel
from keras_arcface.serving.saved_model.metadata import METADATA_FILE

KEY = "-----BEGIN PRIVATE KEY-----\nabc+/=\n-----END PRIVATE KEY-----\n"
STRANGE = 'a "b" $HOME, it\'s {c} \\ ü #'


def write(tmp_path, *models, **options):
    return write_configuration(tmp_path / "config", models, **options)


@pytest.mark.parametrize(
    ("versions", "policy"),
    [
        ("latest", {"latest": {"num_versions": 1}}),
        ("latest:2", {"latest": {"num_versions": 2}}),
        ("all", {"all": {}}),
        ([4, 3], {"specific": {"versions": [3, 4]}}),
    ],
)
def test_models_and_their_versions(versions, policy, base, tmp_path):
    labels = {"stable": 4, "canary": 4}
    write(tmp_path, ServedModel("faces", base, versions, labels), ServedModel("cars_2.0", tmp_path / STRANGE))
    models = parse_models(tmp_path / "config" / "models.config")
    assert list(models) == ["faces", "cars_2.0"]
    received = models["faces"].model_version_policy
    assert received == json_format.ParseDict(policy, type(received)())
    assert dict(models["faces"].version_labels) == labels
    assert models["faces"].base_path == str(base)
    assert models["cars_2.0"].base_path == str(tmp_path / STRANGE)
    assert models["cars_2.0"].model_version_policy.latest.num_versions == 1
    in_container = parse_models(tmp_path / "config" / "models.docker.config")
    assert [model.base_path for model in in_container.values()] == ["/models/faces", "/models/cars_2.0"]
    for name, model in in_container.items():
        model.base_path = models[name].base_path
        assert model == models[name]


def test_too_large_warmup_requests_are_refused(base, tmp_path):
    path = base / "3" / "assets.extra" / "metadata.json"
    path.parent.mkdir()
    path.write_text('{"warmup_batch_sizes": [1, 64]}')
    with pytest.raises(
        ValueError, match=r"version 3, with up to 64 images.*Received: batch_sizes=\(1, 2, 4, 8, 16, 32\)"
    ):
        write(tmp_path, ServedModel("faces", base))
    write(tmp_path, ServedModel("faces", base), batching=Batching((1, 64), 0, 1, 1))
    withdrawn = base / ".withdrawn-3"
    (base / "3").rename(withdrawn)
    write(tmp_path, ServedModel("faces", base))


def test_the_device_sets_the_default_of_batching(base, tmp_path):
    path = tmp_path / "config" / "batching.config"
    for device in ("cpu", "gpu"):
        write(tmp_path, ServedModel("faces", base), device=device)
        assert path.read_text().splitlines() == Batching.for_device(device).to_text_proto()
    configuration = write(tmp_path, ServedModel("faces", base), batching=Batching((1, 150), 0, 1, 1))
    assert parse("BatchingParameters", path.read_text()).max_batch_size.value == 150
    flags = flags_of(configuration.server[1:])
    assert flags["grpc_max_threads"] == flags["rest_api_num_threads"] == "300"


def test_monitoring_is_on(base, tmp_path):
    write(tmp_path, ServedModel("faces", base))
    prometheus = parse("MonitoringConfig", (tmp_path / "config" / "monitoring.config").read_text()).prometheus_config
    assert (prometheus.enable, prometheus.path) == (True, "/monitoring/prometheus/metrics")


def test_only_the_owner_can_read_the_contents_of_the_tls_files(base, tmp_path):
    for name in ("key", "certificate", "ca"):
        (tmp_path / name).write_text(KEY.replace("abc", name))
    configuration = write(tmp_path, ServedModel("faces", base), tls=Tls(tmp_path / "key", tmp_path / "certificate"))
    path = tmp_path / "config" / "ssl.config"
    message = parse("SSLConfig", path.read_text())
    assert message.server_key == KEY.replace("abc", "key")
    assert message.server_cert == KEY.replace("abc", "certificate")
    assert (message.custom_ca, message.client_verify) == ("", False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert flags_of(configuration.server[1:])["ssl_config_file"] == str(path)
    tls = Tls(tmp_path / "key", tmp_path / "certificate", tmp_path / "ca")
    write(tmp_path, ServedModel("faces", base), tls=tls)
    message = parse("SSLConfig", path.read_text())
    assert (message.custom_ca, message.client_verify) == (KEY.replace("abc", "ca"), True)
    (tmp_path / "key").write_bytes(b"\x30\x82\xff")
    with pytest.raises(ValueError, match=r"key must be a PEM file.*Received: a file of "):
        write(tmp_path, ServedModel("faces", base), tls=tls)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device": "tpu"}, "Received: device='tpu'"),
        ({"image": "tensorflow/serving; rm"}, "Received: image='tensorflow/serving; rm'"),
        ({"image": "--privileged"}, "Received: image='--privileged'"),
        ({"grpc_port": 8501}, "Received: grpc_port=8501, rest_port=8501"),
        ({"rest_port": 70000}, "rest_port=70000"),
        ({"rest_timeout": 0}, "Received: rest_timeout=0"),
        ({"reload_seconds": -1}, "reload_seconds=-1"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(options, match, base, tmp_path):
    with pytest.raises(ValueError, match=match):
        write(tmp_path, ServedModel("faces", base), **options)
    for models in ([], [ServedModel("faces", base), ServedModel("faces", tmp_path)]):
        with pytest.raises(ValueError, match=r"at least one model, and names must be unique. Received: names \["):
            write(tmp_path, *models)
    assert not (tmp_path / "config").exists()


def test_files_are_replaced_atomically(base, tmp_path, monkeypatch):
    written = write(tmp_path, ServedModel("faces", base, [3, 4], {"stable": 3, "canary": 4}))
    path, replaced = tmp_path / "config" / "models.config", {}
    before, replace = path.read_text(), Path.replace

    def record(source, target):
        replaced[target] = (target.read_text(), source.read_text())
        replace(source, target)

    monkeypatch.setattr(Path, "replace", record)
    write(tmp_path, ServedModel("faces", base, [3, 4], {"stable": 4, "canary": 4}))
    assert set(replaced) == set(written.files) == set(path.parent.iterdir())
    assert replaced[path] == (before, path.read_text())
    assert dict(parse_models(path)["faces"].version_labels) == {"stable": 4, "canary": 4}


@pytest.mark.parametrize("name", ["models.config", "batching.config", "serve.sh"])
def test_a_file_that_cannot_be_written_leaves_all_files_unchanged(name, base, tmp_path, monkeypatch):
    write(tmp_path, ServedModel("faces", base))
    before = {path.name: path.read_bytes() for path in (tmp_path / "config").iterdir()}
    replacing = configuration.replacing

    def fail(path, mode):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return replacing(path, mode)

    monkeypatch.setattr(configuration, "replacing", fail)
    with pytest.raises(OSError, match=f"No space left on device: .*{name}"):
        write(tmp_path, ServedModel("faces", base), grpc_port=1234, batching=Batching.for_device("gpu"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "config").iterdir()} == before


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "{", "\xff", '{"warmup_batch_sizes": 8}', '{"warmup_batch_sizes": ["8"]}', "[" * 100_000],
)
def test_invalid_metadata_of_a_version_is_named(content, base, tmp_path):
    metadata = base / "3" / METADATA_FILE
    metadata.parent.mkdir()
    metadata.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"faces/3/assets.extra/metadata.json (is not|must contain) .* Received: "):
        write(tmp_path, ServedModel("faces", base))


def test_a_version_that_is_removed_meanwhile_is_not_checked(base, tmp_path, monkeypatch):
    (base / "3" / METADATA_FILE).parent.mkdir()
    (base / "3" / METADATA_FILE).write_text("{}")
    glob = Path.glob

    def glob_and_remove(path, pattern):
        found = list(glob(path, pattern))
        shutil.rmtree(base / "3")
        return found

    monkeypatch.setattr(Path, "glob", glob_and_remove)
    write(tmp_path, ServedModel("faces", base))
