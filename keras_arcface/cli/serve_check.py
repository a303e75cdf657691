"""Checks a running server: signatures, answers, damaged images, versions, warm-up.

    keras-arcface serve-check grpc://localhost:8500
    keras-arcface serve-check grpc://localhost:8500 http://localhost:8501 --export models/faces
    keras-arcface serve-check grpc://localhost:8500 --label stable --export models/faces/3 --json

With --export, the answers, the signatures and the metadata must be those of the SavedModel on this machine. If the
command recognizes the cause of a difference, such as swapped colors, it names it. Without --export, it makes only the
checks that need no SavedModel. With a gRPC and a REST address, the answers over both must be equal bit for bit.

The command prints a table of the checks, and ends with exit code 1 if one failed. It sends about a hundred requests
with up to 33 images per protocol, which do not affect the requests of other clients.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.server_options import add_server_options
from keras_arcface.cli.server_options import server_options
from keras_arcface.cli.startup import load_tensorflow

if TYPE_CHECKING:
    from keras_arcface.serving import ConformanceReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "addresses",
        nargs="+",
        metavar="ADDRESS",
        help="grpc://HOST:PORT, grpcs://, http:// or https://; at most one address of gRPC and one of REST",
    )
    add_server_options(parser)
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIRECTORY",
        help="the SavedModel that is served, or a base path with versions, of which the newest is used",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="allowed difference of embeddings; default 1e-4, or 3e-2 for models that compute in 16 bits",
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    load_tensorflow()
    from keras_arcface.serving import check_server

    report = check_server(
        arguments.addresses,
        export=arguments.export,
        tolerance=arguments.tolerance,
        progress=sys.stderr.isatty(),
        **server_options(arguments),
    )
    if arguments.json:
        print_json(report.to_dict())
    else:
        print(report.table(shutil.get_terminal_size((120, 24)).columns))
        print(f"\n{_describe(report)}: {report.summary()}")
    return 0 if report.passed else 1


def _describe(report: ConformanceReport) -> str:
    version = "no version" if report.version is None else f"version {report.version}"
    compared = "" if report.export is None else f", compared with {report.export} (tolerance {report.tolerance:g})"
    return f"model {report.model}, {version}{compared}"
