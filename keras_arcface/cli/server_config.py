"""Writes the configuration files and start scripts of a TensorFlow Serving server.

    keras-arcface server-config config faces=/srv/models/faces
    keras-arcface server-config config faces=/srv/models/faces --versions faces=3,4 \\
        --label faces:stable=3 --label faces:canary=4 --device gpu

A running server reads a changed models.config within --reload-seconds.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface._choices import BATCH_SIZES
from keras_arcface._choices import DEVICES
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json

if TYPE_CHECKING:
    from keras_arcface.serving import ServedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="directory to write to")
    parser.add_argument(
        "models", nargs="+", metavar="NAME=BASE", help="name of a model and the directory of its versions"
    )
    parser.add_argument(
        "--versions",
        action="append",
        default=[],
        metavar="NAME=VERSIONS",
        help="served versions: latest (default), latest:2, all, or 3,4",
    )
    parser.add_argument("--label", action="append", default=[], metavar="NAME:LABEL=N", help="label of a version")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="device of the server; default cpu")
    parser.add_argument(
        "--cores", type=int, metavar="N", help="number of CPU cores of the server; default: those of this host"
    )
    parser.add_argument(
        "--batch-sizes",
        type=_batch_sizes,
        nargs="+",
        default=[BATCH_SIZES],
        metavar="N",
        help=f"batch sizes of the model's warm-up requests; default {' '.join(map(str, BATCH_SIZES))}",
    )
    parser.add_argument("--image", help="container image; default tensorflow/serving:latest or latest-gpu")
    parser.add_argument("--grpc-port", type=int, default=8500, metavar="PORT", help="port of gRPC; default 8500")
    parser.add_argument("--rest-port", type=int, default=8501, metavar="PORT", help="port of REST; default 8501")
    parser.add_argument(
        "--reload-seconds",
        type=int,
        default=30,
        metavar="N",
        help="interval at which the server reads models.config; default 30",
    )
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("KEY", "CERTIFICATE"), help="PEM files that encrypt gRPC")
    parser.add_argument(
        "--client-ca",
        type=Path,
        metavar="FILE",
        help="with --tls: PEM file of the authority that signs client certificates",
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.client_ca and not arguments.tls:
        arguments.parser.error("--client-ca requires --tls")
    from keras_arcface import serving

    sizes = [size for group in arguments.batch_sizes for size in group]
    tls = None
    if arguments.tls:
        key, certificate = arguments.tls
        tls = serving.Tls(key, certificate, arguments.client_ca)
    configuration = serving.write_configuration(
        arguments.directory,
        parse_models(arguments),
        device=arguments.device,
        batching=serving.Batching.for_device(arguments.device, arguments.cores, sizes),
        image=arguments.image,
        grpc_port=arguments.grpc_port,
        rest_port=arguments.rest_port,
        reload_seconds=arguments.reload_seconds,
        tls=tls,
    )
    if arguments.json:
        files = [str(file) for file in configuration.files]
        print_json({"server": list(configuration.server), "docker": list(configuration.docker), "files": files})
        return
    print(shlex.join(configuration.server), shlex.join(configuration.docker), sep="\n\n")
    print("\nWritten:", *configuration.files, sep="\n  ")


def parse_models(arguments: argparse.Namespace) -> list[ServedModel]:
    """Returns the models with their versions and labels."""
    from keras_arcface.serving import ServedModel

    paths = dict(_split(text, "=", "NAME=BASE") for text in arguments.models)
    if len(paths) < len(arguments.models):
        raise ValueError(f"models must have different names. Received: models={' '.join(arguments.models)}")
    versions: dict[str, str | list[int]] = {}
    labels: dict[str, dict[str, int]] = {name: {} for name in paths}
    for text in arguments.versions:
        name, value = _split(text, "=", "NAME=VERSIONS")
        if name in versions:
            raise ValueError(f"--versions must have one value per model. Received: {name} twice")
        numbers = value.split(",")
        versions[name] = [int(number) for number in numbers] if all(map(str.isdecimal, numbers)) else value
    for text in arguments.label:
        key, version = _split(text, "=", "NAME:LABEL=N")
        name, label = _split(key, ":", "NAME:LABEL=N")
        if not version.isdecimal():
            raise ValueError(f"--label must end with the number of a version. Received: {text}")
        if label in labels.setdefault(name, {}):
            raise ValueError(f"--label must have one version per label. Received: {key} twice")
        labels[name][label] = int(version)
    unknown = ({*versions} | {*labels}) - {*paths}
    if unknown:
        raise ValueError(f"--versions and --label must name one of {[*paths]}. Received: {sorted(unknown)}")
    return [
        ServedModel(name, os.path.abspath(path), versions.get(name, "latest"), labels[name])
        for name, path in paths.items()
    ]


def _split(text: str, separator: str, expected: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not (left and found and right):
        raise ValueError(f"Arguments must have the form {expected}. Received: {text!r}")
    return left, right


def _batch_sizes(text: str) -> list[int]:
    """Parses one size, or several sizes with commas between them."""
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers, such as 1 2 4. Received: {text}") from None
