"""Configuration files and start scripts of TensorFlow Serving."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

from keras_arcface._arguments import check
from keras_arcface._arguments import check_choice
from keras_arcface._choices import DEVICES
from keras_arcface._files import replacing
from keras_arcface._locks import FileLock
from keras_arcface._messages import short
from keras_arcface.serving.deploy import launching
from keras_arcface.serving.deploy import text_proto
from keras_arcface.serving.deploy.batching_parameters import Batching
from keras_arcface.serving.deploy.launching import Launch
from keras_arcface.serving.deploy.served_models import ServedModel
from keras_arcface.serving.deploy.versions import version_number
from keras_arcface.serving.saved_model.metadata import METADATA_FILE
from keras_arcface.serving.saved_model.metadata import read_metadata

METRICS_PATH = "/monitoring/prometheus/metrics"
IMAGES = {"cpu": "tensorflow/serving:latest", "gpu": "tensorflow/serving:latest-gpu"}

_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@-]*", re.ASCII)
_DAY = 24 * 60 * 60  # seconds
_LOCK_TIMEOUT = 10.0  # seconds; another process needs less to write the files


@dataclasses.dataclass(frozen=True)
class Tls:
    """TLS files for the encryption of gRPC.

    The server cannot encrypt REST. Keep the REST port internal, or put a proxy in front of it.

    Args:
        key: path of the PEM file with the server's private key.
        certificate: path of the PEM file with the server's certificate.
        client_ca: path of the PEM file with the certificate authority of the clients. The server then requires client
            certificates. None: every client may connect.

    Examples:
        `write_configuration` copies the contents of the files, so they must exist:

        >>> tls = Tls(key="server.key", certificate="server.crt")
        >>> write_configuration("server", [ServedModel("faces", "/srv/models/faces")], tls=tls)
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'server.key'
    """

    key: str | os.PathLike
    certificate: str | os.PathLike
    client_ca: str | os.PathLike | None = None

    def to_text_proto(self) -> list[str]:
        """Returns the lines of the protocol buffer SSLConfig, which contains the contents of the files.

        Returns:
            The lines.

        Raises:
            OSError: if a file cannot be read.
            ValueError: if a file is not a PEM file.
        """
        lines = [f"server_key: {_read_pem(self.key)}", f"server_cert: {_read_pem(self.certificate)}"]
        if self.client_ca is not None:
            lines += [f"custom_ca: {_read_pem(self.client_ca)}", "client_verify: true"]
        return lines


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Result of `write_configuration`.

    Attributes:
        files: paths of the written files.
        server: arguments of the command that starts `tensorflow_model_server`.
        docker: arguments of the command that starts a container.

    Examples:
        >>> configuration = write_configuration("server", [ServedModel("faces", "/srv/models/faces")])
        >>> configuration.server[:3]
        ('tensorflow_model_server', '--port=8500', '--rest_api_port=8501')
        >>> configuration.docker[:3]
        ('docker', 'run', '--detach')
    """

    files: tuple[Path, ...]
    server: tuple[str, ...]
    docker: tuple[str, ...]


def write_configuration(
    directory: str | os.PathLike,
    models: Iterable[ServedModel],
    device: str = "cpu",
    batching: Batching | None = None,
    image: str | None = None,
    grpc_port: int = 8500,
    rest_port: int = 8501,
    rest_timeout: float = 30.0,
    reload_seconds: int = 30,
    tls: Tls | None = None,
) -> Configuration:
    """Writes the configuration files of a server, and scripts that start the server with and without Docker.

    | file | content |
    |---|---|
    | `models.config` | models, versions and labels, with paths of this host |
    | `models.docker.config` | the same, with paths in the container |
    | `batching.config`, `monitoring.config`, `ssl.config` | settings for both cases |
    | `serve.sh` | starts `tensorflow_model_server` |
    | `serve_docker.sh`, `docker-compose.yml` | start a container with read-only mounts of models and files |

    Every file is replaced atomically, after all files are written. A running server reads `models.config` again every
    `reload_seconds`, so that models and labels change without a restart. All paths in the files are absolute paths of
    this host.

    Args:
        directory: directory of the files. It is created if it does not exist.
        models: served models, at least one.
        device: "cpu" or "gpu". It determines the defaults of `batching` and `image`.
        batching: batching parameters. None: `Batching.for_device(device)`.
        image: image of the container. None: tensorflow/serving:latest or latest-gpu. Use a fixed version in production.
        grpc_port: port of gRPC on this host.
        rest_port: port of REST and of the metrics on this host, different from `grpc_port`.
        rest_timeout: time limit of a REST request in seconds. gRPC clients send their own deadlines.
        reload_seconds: interval in which the server reads models.config, in seconds. 0: only at the start.
        tls: TLS files for gRPC. None: no encryption.

    Returns:
        Paths of the files, and the commands of both scripts.

    Raises:
        BlockingIOError: if another process writes to the directory.
        ModuleNotFoundError: if PyYAML is not installed.
        OSError: if a file cannot be written, or a file of `tls` cannot be read.
        ValueError: if there is no model or two models have the same name; if the metadata of a version is damaged; if a
            port, image or time is not valid; if a warm-up request of a version is larger than the largest batch, so
            that the server would not load the version; or if a file of `tls` is not a PEM file.

    Examples:
        >>> model = ServedModel("faces", "/srv/models/faces", versions=[3, 4], labels={"stable": 3, "canary": 4})
        >>> configuration = write_configuration("server", [model], device="gpu")
        >>> [file.name for file in configuration.files]
        ['models.config', 'models.docker.config', 'batching.config', 'monitoring.config', 'serve.sh',
        'serve_docker.sh', 'docker-compose.yml']
        >>> print(configuration.files[2].read_text())
        max_batch_size { value: 32 }
        batch_timeout_micros { value: 2000 }
        max_enqueued_batches { value: ... }
        num_batch_threads { value: ... }
        allowed_batch_sizes: 1
        ...
    """
    directory, models = Path(directory).absolute(), list(models)
    check_choice("device", device, DEVICES)
    image = IMAGES[device] if image is None else image
    _check_arguments(directory, models, image, (grpc_port, rest_port), (rest_timeout, reload_seconds))
    batching = Batching.for_device(device) if batching is None else batching
    for model in models:
        _check_warmup_sizes(model, batching)
    base_paths = {model.name: Path(model.base_path) for model in models}
    launch = Launch(
        directory=directory,
        base_paths=base_paths,
        image=image,
        has_gpu=device == "gpu",
        ports=(grpc_port, rest_port),
        rest_timeout=rest_timeout,
        reload_seconds=reload_seconds,
        concurrent_requests=batching.concurrent_requests(),
        has_tls=tls is not None,
    )
    server, docker = launch.server_command(), launch.docker_command()
    monitoring = ["enable: true", f"path: {text_proto.string(METRICS_PATH)}"]
    contents = {
        launching.MODELS_FILE: _model_list(models, [str(path) for path in base_paths.values()]),
        launching.CONTAINER_MODELS_FILE: _model_list(models, [launching.path_in_container(m.name) for m in models]),
        launching.BATCHING_FILE: _text(batching.to_text_proto()),
        launching.MONITORING_FILE: _text(text_proto.message("prometheus_config", monitoring)),
    }
    if tls is not None:
        contents[launching.TLS_FILE] = _text(tls.to_text_proto())
    contents |= {
        "serve.sh": launching.shell_script(server),
        "serve_docker.sh": launching.shell_script(docker),
        "docker-compose.yml": launch.compose_file(),
    }
    _write_files(directory, contents)
    return Configuration(tuple(directory / name for name in contents), tuple(server), tuple(docker))


def _check_arguments(
    directory: Path, models: list[ServedModel], image: str, ports: tuple[int, int], times: tuple[float, float]
) -> None:
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"models must contain at least one model, and names must be unique. Received: names {names}")
    check("directory", str(directory), str(directory).isprintable(), "a path without control characters")
    check(
        "image", image, _IMAGE.fullmatch(image) is not None, f"the name of a container image, such as {IMAGES['cpu']}"
    )
    grpc_port, rest_port = ports
    if grpc_port == rest_port or not all(1 <= port <= 65535 for port in ports):
        raise ValueError(
            f"grpc_port and rest_port must be different integers in [1, 65535]. Received: {grpc_port=}, {rest_port=}"
        )
    rest_timeout, reload_seconds = times
    check("rest_timeout", rest_timeout, 0 < rest_timeout <= _DAY, "seconds above 0 and of at most one day")
    check("reload_seconds", reload_seconds, 0 <= reload_seconds <= _DAY, "seconds of at least 0 and at most one day")


def _check_warmup_sizes(model: ServedModel, batching: Batching) -> None:
    """Raises a ValueError if a warm-up request is larger than the largest batch.

    A server that refuses a warm-up request does not load the model.
    """
    base_path = Path(model.base_path)
    for path in sorted(base_path.glob(f"*/{METADATA_FILE}")):
        version = path.relative_to(base_path).parts[0]
        largest = _largest_warmup_size(base_path / version) if version_number(version) is not None else 0
        if largest > batching.batch_sizes[-1]:
            raise ValueError(
                f"batching must allow the warm-up requests of model {model.name!r}, version {version}, with up to "
                f"{short(largest)} images, or the server does not load the model. Received: "
                f"batch_sizes={batching.batch_sizes}"
            )


def _largest_warmup_size(saved_model: Path) -> int:
    try:
        return max(read_metadata(saved_model)["warmup_batch_sizes"], default=0)
    except FileNotFoundError:  # the version was removed after the listing
        return 0


def _model_list(models: Sequence[ServedModel], base_paths: Sequence[str]) -> str:
    """Returns the protocol buffer ModelServerConfig in text format."""
    configs = [line for model, path in zip(models, base_paths, strict=True) for line in model.to_text_proto(path)]
    return _text(text_proto.message("model_config_list", configs))


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _write_files(directory: Path, contents: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock", _LOCK_TIMEOUT), contextlib.ExitStack() as replacements:
        # The stack replaces the files in the opposite order at its exit: the scripts that start a server last.
        for name, content in reversed(contents.items()):
            file = replacements.enter_context(replacing(directory / name, _file_mode(name)))
            file.write(content.encode())
            file.flush()


def _file_mode(name: str) -> int:
    """Returns the permissions of a configuration file. Only the owner may read the file with the private key."""
    return 0o600 if name == launching.TLS_FILE else 0o777 if name.endswith(".sh") else 0o666


def _read_pem(path: str | os.PathLike) -> str:
    text = Path(path).read_bytes().decode("ascii", errors="replace")
    if "-----BEGIN " not in text:
        raise ValueError(
            f"{path} must be a PEM file, with a line -----BEGIN .... Received: a file of {len(text)} bytes"
        )
    return text_proto.string(text)
