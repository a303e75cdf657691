"""Writes the configuration files and start scripts of a TensorFlow Serving server.

    python export/server_config.py config faces=/srv/models/faces
    python export/server_config.py config faces=/srv/models/faces --versions faces=3,4 \\
        --label faces:stable=3 --label faces:canary=4 --device gpu

A running server reads the new files within --reload-seconds.
"""

import argparse
import logging
import os
import shlex

from keras_arcface.serving import Batching
from keras_arcface.serving import ServedModel
from keras_arcface.serving import Tls
from keras_arcface.serving import write_configuration
from keras_arcface.serving.deploy.batching_parameters import BATCH_SIZES
from keras_arcface.serving.deploy.batching_parameters import DEVICES


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", help="directory of the files")
    parser.add_argument("models", nargs="+", metavar="NAME=BASE", help="name of a model, and directory of its versions")
    parser.add_argument(
        "--versions",
        action="append",
        default=[],
        metavar="NAME=VERSIONS",
        help="served versions: latest (default), latest:2, all, or 3,4",
    )
    parser.add_argument("--label", action="append", default=[], metavar="NAME:LABEL=N", help="label of a version")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--cores", type=int, help="number of CPU cores of the server (default: those of this host)")
    sizes = ",".join(map(str, BATCH_SIZES))
    parser.add_argument(
        "--batch-sizes", default=sizes, help="batch sizes of the model's warm-up requests (default: %(default)s)"
    )
    parser.add_argument("--image", help="container image (default: tensorflow/serving:latest or latest-gpu)")
    parser.add_argument("--grpc-port", type=int, default=8500)
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument(
        "--reload-seconds", type=int, default=30, help="reading interval of models.config (default: 30)"
    )
    parser.add_argument("--tls", nargs=2, metavar=("KEY", "CERTIFICATE"), help="PEM files; gRPC is encrypted")
    parser.add_argument("--client-ca", help="with --tls: PEM file of the authority that signs client certificates")
    arguments = parser.parse_args()
    if arguments.client_ca and not arguments.tls:
        parser.error("--client-ca requires --tls")
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
    except (ValueError, OSError, ModuleNotFoundError) as error:
        parser.exit(1, f"error: {error}\n")
    print(shlex.join(configuration.server), shlex.join(configuration.docker), sep="\n\n")
    print("\nWritten:", *configuration.files, sep="\n  ")


def parse_models(arguments) -> list[ServedModel]:
    paths = dict(split(text, "=", "NAME=BASE") for text in arguments.models)
    if len(paths) < len(arguments.models):
        raise ValueError(f"models must have different names. Received: models={' '.join(arguments.models)}")
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
        raise ValueError(f"--versions and --label must name one of {[*paths]}. Received: {sorted(unknown)}")
    return [
        ServedModel(name, os.path.abspath(path), versions.get(name, "latest"), labels[name])
        for name, path in paths.items()
    ]


def split(text: str, separator: str, expected: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not (left and found and right):
        raise ValueError(f"Arguments must have the form {expected}. Received: {text!r}")
    return left, right


if __name__ == "__main__":
    main()
