"""Output that is either text for people or one JSON document for programs."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def text_printer(arguments: argparse.Namespace) -> Callable[..., None]:
    """Returns a function like `print` for text. With `--json`, it prints to the standard error."""

    def say(*values: Any, sep: str = " ") -> None:
        print(*values, sep=sep, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    return say


def print_json(value: Any) -> None:
    """Prints the JSON document of a command with `--json`."""
    print(json.dumps(value, indent=2, allow_nan=False))
