"""Commands that start TensorFlow Serving, directly or in a Docker container."""

import csv
import dataclasses
import io
import itertools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_arcface._optional import optional_import

MODELS_FILE, CONTAINER_MODELS_FILE = "models.config", "models.docker.config"
BATCHING_FILE, MONITORING_FILE, TLS_FILE = "batching.config", "monitoring.config", "ssl.config"

# Ports and paths in the official images. The directory of the files is mounted instead of each file, because a
# container does not see the replacement of a mounted file.
_GRPC_PORT, _REST_PORT, _CONFIGURATION, _MODELS = 8500, 8501, "/config", "/models"
_SERVICE = "tensorflow-serving"


def path_in_container(name: str) -> str:
    """Returns the path of a model's base path in the container."""
    return f"{_MODELS}/{name}"


def shell_script(command: list[str]) -> str:
    """Returns a shell script that executes a command."""
    words = list(itertools.takewhile(lambda argument: not argument.startswith("-"), command))
    lines = [shlex.join(words), *map(shlex.quote, command[len(words) :])]
    return "#!/bin/sh\nexec " + " \\\n  ".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Launch:
    """Settings of a server at its start.

    Args:
        directory, image, rest_timeout, reload_seconds: arguments of `write_configuration`.
        base_paths: `{name of the model: base path on the host}`.
        has_gpu: whether the container has access to the GPUs of the host.
        ports: gRPC port and REST port on the host.
        concurrent_requests: number of concurrent requests that the server must accept to fill its batches.
        has_tls: whether gRPC is encrypted.
    """

    directory: Path
    base_paths: Mapping[str, Path]
    image: str
    has_gpu: bool
    ports: tuple[int, int]
    rest_timeout: float
    reload_seconds: int
    concurrent_requests: int
    has_tls: bool

    def server_command(self) -> list[str]:
        """Returns the command that starts the server without a container."""
        ports = [f"--port={self.ports[0]}", f"--rest_api_port={self.ports[1]}"]
        return ["tensorflow_model_server", *ports, *self._flags(str(self.directory), MODELS_FILE)]

    def docker_command(self) -> list[str]:
        """Returns the command that starts a container. The image sets the ports of the server."""
        command = ["docker", "run", "--detach", "--restart=unless-stopped", f"--name={_SERVICE}"]
        if self.has_gpu:
            command += ["--gpus=all"]
        command += [f"--publish={port}" for port in self._published_ports()]
        for source, target in self._mounts():
            mount = _csv_row("type=bind", f"source={source}", f"target={target}", "readonly")
            command += [f"--mount={mount}"]
        return [*command, self.image, *self._container_flags()]

    def compose_file(self) -> str:
        """Returns the content of a compose file for the container of `docker_command`."""
        with optional_import("serving", "write_configuration"):
            import yaml
        volumes = [
            {"type": "bind", "source": source, "target": target, "read_only": True, "bind": {"create_host_path": False}}
            for source, target in self._mounts()
        ]
        service: dict[str, Any] = {
            "image": self.image,
            "restart": "unless-stopped",
            "ports": self._published_ports(),
            "volumes": volumes,
            "command": self._container_flags(),
            "healthcheck": {
                "test": self._health_check(),
                "interval": "10s",
                "timeout": "5s",
                "retries": 3,
                "start_period": "300s",
            },
        }
        if self.has_gpu:
            gpus = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
            service["deploy"] = {"resources": {"reservations": {"devices": [gpus]}}}
        content = _escape_variables({"services": {_SERVICE: service}})
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)

    def _container_flags(self) -> list[str]:
        return self._flags(_CONFIGURATION, CONTAINER_MODELS_FILE)

    def _flags(self, directory: str, models_file: str) -> list[str]:
        # A request occupies a thread while it waits for its batch. By default the server has four threads per core, so
        # a host with two cores would refuse the ninth request with RESOURCE_EXHAUSTED before a large batch is full.
        flags = {
            "model_config_file": f"{directory}/{models_file}",
            "model_config_file_poll_wait_seconds": self.reload_seconds,
            "allow_version_labels_for_unavailable_models": "true",  # no version is available at the start
            "file_system_poll_wait_seconds": 1,
            "enable_model_warmup": "true",
            "enable_batching": "true",
            "batching_parameters_file": f"{directory}/{BATCHING_FILE}",
            "monitoring_config_file": f"{directory}/{MONITORING_FILE}",
            "grpc_max_threads": self.concurrent_requests,
            "rest_api_num_threads": self.concurrent_requests,
            "rest_api_timeout_in_ms": max(1, round(1000 * self.rest_timeout)),
        }
        if self.has_tls:
            flags["ssl_config_file"] = f"{directory}/{TLS_FILE}"
        return [f"--{name}={value}" for name, value in flags.items()]

    def _published_ports(self) -> list[str]:
        return [f"{host}:{port}" for host, port in zip(self.ports, (_GRPC_PORT, _REST_PORT), strict=True)]

    def _mounts(self) -> list[tuple[str, str]]:
        models = [(str(path), path_in_container(name)) for name, path in self.base_paths.items()]
        return [(str(self.directory), _CONFIGURATION), *models]

    def _health_check(self) -> list[str]:
        """Returns a bash command that succeeds if every model has an available version. The image has no curl."""
        names = " ".join(self.base_paths)
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{_REST_PORT}"
        send = "printf 'GET /v1/models/%s HTTP/1.0\\r\\n\\r\\n' \"$name\" >&3"
        receive = "grep -q AVAILABLE <&3"
        return ["CMD", "bash", "-c", f"for name in {names}; do {connect} && {send} && {receive} || exit 1; done"]


def _csv_row(*fields: str) -> str:
    """Returns fields as one CSV row, the format of `docker run --mount`, with quotes where necessary."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _escape_variables(value: Any) -> Any:
    """Doubles each `$` in nested strings, because a single `$` starts a variable in a compose file."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escape_variables(item) for item in value]
    if isinstance(value, dict):
        return {key: _escape_variables(item) for key, item in value.items()}
    return value
