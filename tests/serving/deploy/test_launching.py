import csv
import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from server_protos import flags_of
from server_protos import parse_models

from keras_arcface.serving.deploy.configuration import write_configuration
from keras_arcface.serving.deploy.launching import Launch
from keras_arcface.serving.deploy.served_models import ServedModel

STRANGE = 'a "b" $HOME, it\'s {c} \\ ü #'


def write(tmp_path, *models, **options):
    return write_configuration(tmp_path / "config", models, **options)


def mounts_of(command):
    """Returns {target: source}, parsed from the comma-separated fields as Docker does."""
    values = [argument.removeprefix("--mount=") for argument in command if argument.startswith("--mount=")]
    mounts = {}
    for kind, source, target, readonly in csv.reader(values, strict=True):
        assert (kind, readonly) == ("type=bind", "readonly")
        assert target.startswith("target=")
        assert source.startswith("source=")
        mounts[target.removeprefix("target=")] = source.removeprefix("source=")
    return mounts


def test_the_command_without_a_container(base, tmp_path):
    configuration = write(tmp_path, ServedModel("faces", base), rest_timeout=1.5, grpc_port=9000, rest_port=9001)
    assert configuration.server[0] == "tensorflow_model_server"
    assert flags_of(configuration.server[1:]) == {
        "port": "9000",
        "rest_api_port": "9001",
        "model_config_file": str(tmp_path / "config" / "models.config"),
        "model_config_file_poll_wait_seconds": "30",
        "allow_version_labels_for_unavailable_models": "true",
        "file_system_poll_wait_seconds": "1",
        "enable_model_warmup": "true",
        "enable_batching": "true",
        "batching_parameters_file": str(tmp_path / "config" / "batching.config"),
        "monitoring_config_file": str(tmp_path / "config" / "monitoring.config"),
        "grpc_max_threads": str(max(64, 4 * os.cpu_count())),
        "rest_api_num_threads": str(max(64, 4 * os.cpu_count())),
        "rest_api_timeout_in_ms": "1500",
    }


@pytest.mark.parametrize(
    ("device", "image", "expected"),
    [
        ("cpu", None, "tensorflow/serving:latest"),
        ("gpu", None, "tensorflow/serving:latest-gpu"),
        ("cpu", "registry.example.com:5000/serving:1@sha256:01", "registry.example.com:5000/serving:1@sha256:01"),
    ],
)
def test_the_command_with_docker(device, image, expected, base, tmp_path):
    models = [ServedModel("faces", base), ServedModel("cars", tmp_path / STRANGE)]
    configuration = write(tmp_path, *models, device=device, image=image, grpc_port=9000, rest_port=9001)
    command = list(configuration.docker)
    assert command[:2] == ["docker", "run"]
    options, flags = command[2 : command.index(expected)], flags_of(command[command.index(expected) + 1 :])
    assert ("--gpus=all" in options) == (device == "gpu")
    assert {"--publish=9000:8500", "--publish=9001:8501"} <= set(options)
    mounts = mounts_of(options)
    assert mounts == {
        "/config": str(tmp_path / "config"),
        "/models/faces": str(base),
        "/models/cars": str(tmp_path / STRANGE),
    }
    files = {name: value for name, value in flags.items() if name.endswith("_file")}
    assert files == {
        "model_config_file": "/config/models.docker.config",
        "batching_parameters_file": "/config/batching.config",
        "monitoring_config_file": "/config/monitoring.config",
    }
    for path in files.values():  # the mounts contain the files of the flags
        assert Path(path.replace("/config", mounts["/config"])).is_file()
    for model in parse_models(tmp_path / "config" / "models.docker.config").values():
        assert model.base_path in mounts
    assert not {"port", "rest_api_port"} & set(flags)  # the image sets them
    host = flags_of(configuration.server[1:])
    assert {name: value for name, value in flags.items() if name not in files}.items() <= host.items()


@pytest.mark.parametrize("name", ["serve.sh", "serve_docker.sh"])
def test_the_scripts_run_the_commands(name, base, tmp_path):
    configuration = write(tmp_path, ServedModel("faces", base), ServedModel("cars", tmp_path / STRANGE))
    command = configuration.server if name == "serve.sh" else configuration.docker
    fake = tmp_path / command[0]
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([tmp_path / "config" / name], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert tuple(json.loads(done.stdout)) == command[1:]
    assert shlex.split((tmp_path / "config" / name).read_text().replace("\\\n", ""), comments=True)[1:] == list(command)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_compose_file_matches_the_docker_command(device, base, tmp_path):
    models = [ServedModel("faces", base), ServedModel("cars", tmp_path / STRANGE)]
    configuration = write(tmp_path, *models, device=device, rest_port=9001)
    service = yaml.safe_load((tmp_path / "config" / "docker-compose.yml").read_text())["services"]["tensorflow-serving"]
    command = list(configuration.docker)
    image = command.index(service["image"])
    assert service["command"] == command[image + 1 :]
    assert [f"--publish={port}" for port in service["ports"]] == [a for a in command if a.startswith("--publish=")]
    assert all(volume["read_only"] is True and volume["type"] == "bind" for volume in service["volumes"])
    assert all(volume["bind"] == {"create_host_path": False} for volume in service["volumes"])
    sources = {volume["target"]: volume["source"].replace("$$", "$") for volume in service["volumes"]}
    assert sources == mounts_of(command)
    assert "$$HOME" in {volume["target"]: volume["source"] for volume in service["volumes"]}["/models/cars"]
    assert service["restart"] == "unless-stopped"
    gpus = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    expected = {"resources": {"reservations": {"devices": [gpus]}}} if device == "gpu" else None
    assert service.get("deploy") == expected


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers of the server's REST API to requests for the status of a model, see g3doc/api_rest.md."""

    states: dict = {}  # noqa: RUF012

    def do_GET(self):
        state = self.states.get(self.path.removeprefix("/v1/models/"))
        self.send_response(200 if state else 404)
        self.end_headers()
        status = {"model_version_status": [{"version": "3", "state": state}]} if state else {"error": "not found"}
        self.wfile.write(json.dumps(status, indent=1).encode())

    def log_message(self, *_):
        pass


def test_the_health_check_covers_every_model(base, tmp_path):
    write(tmp_path, ServedModel("faces", base), ServedModel("cars", base))
    service = yaml.safe_load((tmp_path / "config" / "docker-compose.yml").read_text())["services"]["tensorflow-serving"]
    kind, *command = [word.replace("$$", "$") for word in service["healthcheck"]["test"]]
    assert kind == "CMD"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        command[-1] = command[-1].replace("/8501", f"/{server.server_port}")
        results = []
        for cars in ("AVAILABLE", "LOADING", None):
            Answers.states = {"faces": "AVAILABLE", "cars": cars}
            results.append(subprocess.run(command, timeout=10, check=False).returncode)
        server.shutdown()
        thread.join()
    results.append(subprocess.run(command, timeout=10, check=False, stderr=subprocess.DEVNULL).returncode)
    assert results == [0, 1, 1, 1]


def test_the_flag_of_tls():
    launch = Launch(Path("/c"), {"a": Path("/m")}, "i", False, (1, 2), 1.0, 0, 8, True)
    assert flags_of(launch.server_command()[1:])["ssl_config_file"] == "/c/ssl.config"
    assert launch.docker_command()[-1] == "--ssl_config_file=/config/ssl.config"
