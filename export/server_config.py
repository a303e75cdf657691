"""Writes the configuration of a TensorFlow Serving server, and the commands that start it.

    python export/server_config.py config faces=/srv/models/faces
    python export/server_config.py config faces=/srv/models/faces --versions faces=3,4 \\
        --label faces:stable=3 --label faces:canary=4 --device gpu

A running server notices the new files within --reload-seconds.
"""

import argparse
import logging
import os
import shlex

from keras_arcface.serving.deploy.batching_parameters import BATCH_SIZES
from keras_arcface.serving.deploy.batching_parameters import DEVICES
from keras_arcface.serving.deploy.batching_parameters import Batching
from keras_arcface.serving.deploy.configuration import Tls
from keras_arcface.serving.deploy.configuration import write_configuration
from keras_arcface.serving.deploy.served_models import ServedModel


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", help="where to write")
    parser.add_argument("models", nargs="+", metavar="NAME=BASE", help="a model and the directory of its versions")
    parser.add_argument(
        "--versions",
        action="append",
        default=[],
        metavar="NAME=VERSIONS",
        help="which are served: latest (default), latest:2, all, or 3,4",
    )
    parser.add_argument("--label", action="append", default=[], metavar="NAME:LABEL=N", help="a name for a version")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--cores", type=int, help="of the server's host; default: as many as this one has")
    sizes = ",".join(map(str, BATCH_SIZES))
    parser.add_argument(
        "--batch-sizes", default=sizes, help="those the model was warmed up with (default: %(default)s)"
    )
    parser.add_argument("--image", help="the container's image; default: tensorflow/serving:latest, or latest-gpu")
    parser.add_argument("--grpc-port", type=int, default=8500)
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument("--reload-seconds", type=int, default=30, help="how often models.config is read again")
    parser.add_argument("--tls", nargs=2, metavar=("KEY", "CERTIFICATE"), help="PEM files: encrypts gRPC")
    parser.add_argument("--client-ca", help="with --tls: PEM file of the authority of the clients that are answered")
    arguments = parser.parse_args()
    if arguments.client_ca and not arguments.tls:
        parser.error("--client-ca is for --tls")
    logging.basicConfig(format="%(message)s")
    try:
        configuration = write_configuration(
            arguments.directory,
            parse_models(arguments),
            device=arguments.device,
            batching=Batching.for_device(
                arguments.device, arguments.cores, [int(size) for size in arguments.batch_sizes.split(",")]
            ),
            image=arguments.image,
            grpc_port=arguments.grpc_port,
            rest_port=arguments.rest_port,
            reload_seconds=arguments.reload_seconds,
            tls=Tls(*arguments.tls, arguments.client_ca) if arguments.tls else None,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(shlex.join(configuration.server), shlex.join(configuration.docker), sep="\n\n")
    print("\nWritten:", *configuration.files, sep="\n  ")


def parse_models(arguments) -> list[ServedModel]:
    paths = dict(split(text, "=", "NAME=BASE") for text in arguments.models)
    if len(paths) < len(arguments.models):
        raise ValueError(f"Expected models of different names. Received: {' '.join(arguments.models)}")
    versions, labels = {}, {name: {} for name in paths}
    for text in arguments.versions:
        name, value = split(text, "=", "NAME=VERSIONS")
        numbers = value.split(",")
        versions[name] = [int(number) for number in numbers] if all(map(str.isdecimal, numbers)) else value
    for text in arguments.label:
        key, version = split(text, "=", "NAME:LABEL=N")
        name, label = split(key, ":", "NAME:LABEL=N")
        labels.setdefault(name, {})[label] = int(version)
    unknown = ({*versions} | {*labels}) - {*paths}
    if unknown:
        raise ValueError(f"--versions and --label name no such model: {', '.join(sorted(unknown))}")
    return [
        ServedModel(name, os.path.abspath(path), versions.get(name, "latest"), labels[name])
        for name, path in paths.items()
    ]


def split(text: str, separator: str, expected: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not (left and found and right):
        raise ValueError(f"Expected {expected}. Received: {text}")
    return left, right


if __name__ == "__main__":
    main()
