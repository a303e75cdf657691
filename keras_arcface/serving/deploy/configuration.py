"""What TensorFlow Serving reads at its start, and how it is started: files for the operators of a fleet."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from keras_arcface.serving.deploy import launching
from keras_arcface.serving.deploy import text_proto
from keras_arcface.serving.deploy import versions as numbering
from keras_arcface.serving.deploy.batching_parameters import DEVICES
from keras_arcface.serving.deploy.batching_parameters import Batching
from keras_arcface.serving.deploy.launching import Launch
from keras_arcface.serving.deploy.served_models import ServedModel
from keras_arcface.serving.saved_model.metadata import METADATA_FILE

METRICS = "/monitoring/prometheus/metrics"
IMAGES = {"cpu": "tensorflow/serving:latest", "gpu": "tensorflow/serving:latest-gpu"}

_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@-]*", re.ASCII)
_DAY = 24 * 60 * 60  # seconds


@dataclasses.dataclass(frozen=True)
class Tls:
    """Encrypts gRPC. The server's REST port has no encryption: keep it inside, or behind a proxy that has.

    Args:
        key: file of the server's private key, PEM.
        certificate: file of its certificate, PEM.
        client_ca: file of the authority whose clients alone are answered, PEM; None for all clients.
    """

    key: str | Path
    certificate: str | Path
    client_ca: str | Path | None = None

    def lines(self) -> list[str]:
        """SSLConfig as text; the server wants the contents of the files in it, not their names."""
        lines = [f"server_key: {_pem(self.key)}", f"server_cert: {_pem(self.certificate)}"]
        if self.client_ca is not None:
            lines += [f"custom_ca: {_pem(self.client_ca)}", "client_verify: true"]
        return lines


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What `write_configuration` wrote.

    Attributes:
        files: their paths.
        server: the command that starts `tensorflow_model_server`, argument by argument.
        docker: the command that starts a container instead.
    """

    files: tuple[Path, ...]
    server: tuple[str, ...]
    docker: tuple[str, ...]


def write_configuration(
    directory,
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
    """Writes what a server of these models needs, and how it is started, with Docker and without.

    | file | what it is |
    |---|---|
    | `models.config` | models, versions and labels, with the paths of this host |
    | `models.docker.config` | the same with the paths in the container |
    | `batching.config`, `monitoring.config`, `ssl.config` | for both |
    | `serve.sh` | starts `tensorflow_model_server` |
    | `serve_docker.sh`, `docker-compose.yml` | start a container, in which models and files are read-only |

    Every file is replaced in one step: a running server reads `models.config` again every `reload_seconds`, so labels
    and models change without a restart. The paths in the files are absolute, of this host.

    Args:
        directory: where to write; made if it does not exist.
        models: at least one.
        device: "cpu" or "gpu": which image, and which batching.
        batching: None for `Batching.for_device(device)`.
        image: the container's; None for tensorflow/serving:latest, or latest-gpu. Name a version in production.
        grpc_port, rest_port: on this host.
        rest_timeout: seconds after which a REST request is given up; gRPC clients bring deadlines of their own.
        reload_seconds: how often models.config is read again; 0 for never.
        tls: encrypts gRPC; None does not.

    Returns:
        The files, and both commands.

    Raises:
        OSError: if a file cannot be written, or one of `tls` not be read.
        ValueError: if there is no model, or two of one name; a port, an image or a time that cannot be meant; if a
            version has warm-up requests larger than the largest batch, which would keep it from loading; or a file of
            `tls` is not PEM.
    """
    directory, models = Path(directory).absolute(), list(models)
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}. Received: device={device!r}")
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"models must be at least one, of different names. Received: {', '.join(names) or 'none'}")
    if not str(directory).isprintable():
        raise ValueError(f"directory must be a path without control characters. Received: {str(directory)!r}")
    image = IMAGES[device] if image is None else image
    if not _IMAGE.fullmatch(image):
        raise ValueError(f"image must be the name of an image, like {IMAGES[device]}. Received: image={image!r}")
    if grpc_port == rest_port or not all(1 <= port <= 65535 for port in (grpc_port, rest_port)):
        raise ValueError(f"Ports must be different, from 1 to 65535. Received: {grpc_port=}, {rest_port=}")
    if not 0 < rest_timeout <= _DAY or not 0 <= reload_seconds <= _DAY:
        raise ValueError(f"Times must be of up to a day, in seconds. Received: {rest_timeout=}, {reload_seconds=}")
    batching = Batching.for_device(device) if batching is None else batching
    for model in models:
        _check_warm_up(model, batching)
    launch = Launch(
        directory=directory,
        base_paths={model.name: model.base_path for model in models},
        image=image,
        has_gpu=device == "gpu",
        ports=(grpc_port, rest_port),
        rest_timeout=rest_timeout,
        reload_seconds=reload_seconds,
        requests_at_once=batching.requests_at_once(),
        has_tls=tls is not None,
    )
    on_host, in_container = launch.server(), launch.docker()
    contents = {
        launching.MODELS: _models(models, {model.name: str(model.base_path) for model in models}),
        launching.MODELS_IN_CONTAINER: _models(models, {name: launching.path_in_container(name) for name in names}),
        launching.BATCHING: batching.lines(),
        launching.MONITORING: text_proto.message(
            "prometheus_config", ["enable: true", f"path: {text_proto.string(METRICS)}"]
        ),
        launching.TLS: None if tls is None else tls.lines(),
        "serve.sh": launching.script(on_host),
        "serve_docker.sh": launching.script(in_container),
        "docker-compose.yml": launch.compose(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    files = [_write(directory / name, lines) for name, lines in contents.items() if lines is not None]
    return Configuration(tuple(files), tuple(on_host), tuple(in_container))


def _check_warm_up(model: ServedModel, batching: Batching) -> None:
    """The server answers warm-up requests as any other, and refuses a model one of whose requests it refuses."""
    for described in sorted(model.base_path.glob(f"*/{METADATA_FILE}")):
        sizes = json.loads(described.read_text()).get("warmup_batch_sizes", [])
        version = described.relative_to(model.base_path).parts[0]
        if numbering.number_of(version) is not None and max(sizes, default=0) > batching.batch_sizes[-1]:
            raise ValueError(
                f"Model {model.name!r}, version {version} has warm-up requests of {max(sizes)} images. Expected: at "
                f"most the largest batch size, or it will not load. Received: batch_sizes={batching.batch_sizes}"
            )


def _models(models: list[ServedModel], base_paths: dict[str, str]) -> list[str]:
    configs = [line for model in models for line in model.lines(base_paths[model.name])]
    return text_proto.message("model_config_list", configs)


def _write(path: Path, lines: list[str]) -> Path:
    """In one step, as a server may be reading it; a private key is nobody else's at any moment."""
    mode = 0o600 if path.name == launching.TLS else 0o777 if path.suffix == ".sh" else 0o666
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    unfinished.replace(path)
    return path


def _pem(path: str | Path) -> str:
    text = Path(path).read_bytes().decode("ascii", errors="replace")
    if "-----BEGIN " not in text:
        raise ValueError(f"{path} is no PEM file. Expected: a key or a certificate as text, -----BEGIN ...")
    return text_proto.string(text)
