"""Options of the commands that send requests to a server."""

import argparse
from pathlib import Path
from typing import Any

_NAMES = ("model", "version", "label", "timeout", "retries", "certificates", "client_certificate", "client_key")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `FaceClient` and `check_server` have as arguments."""
    parser.add_argument("--model", default="faces", metavar="NAME", help="name of the served model; default faces")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--version", type=int, metavar="N", help="version of the model, instead of the latest")
    target.add_argument("--label", help="version label such as stable, instead of a version")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="time limit of a request; default 10"
    )
    parser.add_argument("--retries", type=int, default=3, metavar="N", help="retries of a request; default 3")
    parser.add_argument("--certificates", type=Path, metavar="PEM", help="root certificates for TLS")
    parser.add_argument("--client-certificate", type=Path, metavar="PEM", help="client certificate for TLS")
    parser.add_argument("--client-key", type=Path, metavar="PEM", help="private key of the client certificate")


def server_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the values of the options by the names of the arguments."""
    return {name: getattr(arguments, name) for name in _NAMES}
