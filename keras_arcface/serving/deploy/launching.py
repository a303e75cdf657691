"""How a TensorFlow Serving server is started: its flags, a container, a compose file."""

import csv
import dataclasses
import io
import itertools
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

MODELS, MODELS_IN_CONTAINER = "models.config", "models.docker.config"
BATCHING, MONITORING, TLS = "batching.config", "monitoring.config", "ssl.config"

# The images listen there. What is mounted is the directory of the files: of a file that is mounted by itself the
# container would go on to see the old one when it is replaced.
_GRPC, _REST, _CONFIGURATION, _MODELS = 8500, 8501, "/config", "/models"
_SERVICE = "tensorflow-serving"


def path_in_container(name: str) -> str:
    """Where a model's base path is mounted."""
    return f"{_MODELS}/{name}"


def script(command: list[str]) -> list[str]:
    """A shell script that becomes the command."""
    words = list(itertools.takewhile(lambda argument: not argument.startswith("-"), command))
    lines = [shlex.join(words), *map(shlex.quote, command[len(words) :])]
    return ["#!/bin/sh", "exec " + " \\\n  ".join(lines)]


@dataclasses.dataclass(frozen=True)
class Launch:
    """What starting a server takes; see `write_configuration` for what is not said here.

    Args:
        base_paths: of the models, by name, on the host.
        requests_at_once: how many requests it must take at once, for its batches to fill.
    """

    directory: Path
    base_paths: Mapping[str, Path]
    image: str
    has_gpu: bool
    ports: tuple[int, int]
    rest_timeout: float
    reload_seconds: int
    requests_at_once: int
    has_tls: bool

    def server(self) -> list[str]:
        """The command without a container."""
        ports = [f"--port={self.ports[0]}", f"--rest_api_port={self.ports[1]}"]
        return ["tensorflow_model_server", *ports, *self._flags(str(self.directory), MODELS)]

    def docker(self) -> list[str]:
        """The command that starts a container; the image itself gives the server its ports."""
        command = ["docker", "run", "--detach", "--restart=unless-stopped", f"--name={_SERVICE}"]
        if self.has_gpu:
            command += ["--gpus=all"]
        command += [f"--publish={host}:{port}" for host, port in self._published()]
        for source, target in self._mounts():
            mount = _comma_separated("type=bind", f"source={source}", f"target={target}", "readonly")
            command += [f"--mount={mount}"]
        return [*command, self.image, *self._flags_in_container()]

    def compose(self) -> list[str]:
        """The same for `docker compose up --detach`."""
        lines = ["services:", f"  {_SERVICE}:", f"    image: {_yaml(self.image)}", "    restart: unless-stopped"]
        lines += ["    ports:", *(f"      - {_yaml(f'{host}:{port}')}" for host, port in self._published())]
        lines += ["    volumes:"]
        for source, target in self._mounts():
            lines += ["      - type: bind", f"        source: {_yaml(source)}", f"        target: {_yaml(target)}"]
            lines += ["        read_only: true", "        bind:", "          create_host_path: false"]
        lines += ["    command:", *(f"      - {_yaml(flag)}" for flag in self._flags_in_container())]
        lines += ["    healthcheck:", "      test:", *(f"        - {_yaml(word)}" for word in self._health_check())]
        lines += ["      interval: 10s", "      timeout: 5s", "      retries: 3", "      start_period: 300s"]
        if self.has_gpu:
            lines += ["    deploy:", "      resources:", "        reservations:", "          devices:"]
            lines += ["            - driver: nvidia", "              count: all", "              capabilities: [gpu]"]
        return lines

    def _flags_in_container(self) -> list[str]:
        return self._flags(_CONFIGURATION, MODELS_IN_CONTAINER)

    def _flags(self, directory: str, models: str) -> list[str]:
        # A request holds a thread while it waits to become part of a batch. With the server's own number of them, four
        # for each core, a host of two cores refuses the ninth as RESOURCE_EXHAUSTED, and no batch has more than eight.
        flags = {
            "model_config_file": f"{directory}/{models}",
            "model_config_file_poll_wait_seconds": self.reload_seconds,
            "allow_version_labels_for_unavailable_models": "true",  # at a start, no version is available yet
            "file_system_poll_wait_seconds": 1,
            "enable_model_warmup": "true",
            "enable_batching": "true",
            "batching_parameters_file": f"{directory}/{BATCHING}",
            "monitoring_config_file": f"{directory}/{MONITORING}",
            "grpc_max_threads": self.requests_at_once,
            "rest_api_num_threads": self.requests_at_once,
            "rest_api_timeout_in_ms": max(1, round(1000 * self.rest_timeout)),
        }
        if self.has_tls:
            flags["ssl_config_file"] = f"{directory}/{TLS}"
        return [f"--{name}={value}" for name, value in flags.items()]

    def _published(self) -> list[tuple[int, int]]:
        return list(zip(self.ports, (_GRPC, _REST), strict=True))

    def _mounts(self) -> list[tuple[str, str]]:
        models = [(str(path), path_in_container(name)) for name, path in self.base_paths.items()]
        return [(str(self.directory), _CONFIGURATION), *models]

    def _health_check(self) -> list[str]:
        """Whether every model has an available version, by what the image has: a shell, and no curl."""
        names = " ".join(self.base_paths)
        ask = f"exec 3<>/dev/tcp/127.0.0.1/{_REST} && printf 'GET /v1/models/%s HTTP/1.0\\r\\n\\r\\n' \"$name\" >&3"
        return ["CMD", "bash", "-c", f"for name in {names}; do {ask} && grep -q AVAILABLE <&3 || exit 1; done"]


def _comma_separated(*fields: str) -> str:
    """As `docker run --mount` reads it: a field with a comma or a quote in it is quoted."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _yaml(text: str) -> str:
    """A quoted string; for compose `$` starts a variable unless it is doubled."""
    return json.dumps(text, ensure_ascii=False).replace("$", "$$")
