"""Publishes a SavedModel as the next version of a served model.

    keras-arcface publish exported/faces models/faces --keep 5 --protect 3
    keras-arcface publish --rollback models/faces
    keras-arcface publish --rollback models/faces --to 3
    keras-arcface publish --list models/faces

The SavedModel is copied, checked and renamed. Its number is the largest number ever used plus 1. TensorFlow Serving
finds it in the base path within a second. --rollback withdraws the newest version, or all versions after --to.
--dry-run only prints the planned changes.
"""

import argparse
import contextlib
import logging
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.parser import Alternative
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s SAVED_MODEL BASE [options]\n       %(prog)s --rollback BASE [--to N] [--dry-run]\n"
        "       %(prog)s --list BASE"
    )
    parser.add_argument("saved_model", type=Path, metavar="SAVED_MODEL", help="directory of the SavedModel")
    parser.add_argument("base", type=Path, metavar="BASE", help="directory of the versions of the model")
    parser.add_argument("--version", type=int, metavar="N", help="number of the version; default: the next number")
    parser.add_argument("--keep", type=int, metavar="K", help="remove all versions except the newest K")
    parser.add_argument(
        "--protect",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="version that --keep does not remove; repeatable",
    )
    parser.add_argument("--no-check", action="store_true", help="publish without a check of the model")
    instead = parser.add_mutually_exclusive_group()
    options: dict[str, Any] = {
        "type": Path,
        "action": Alternative,
        "instead_of": ("saved_model", "base"),
        "metavar": "BASE",
    }
    instead.add_argument("--rollback", help="withdraw the newest version of BASE", **options)
    instead.add_argument("--list", help="print the versions of BASE", **options)
    parser.add_argument("--to", type=int, metavar="N", help="with --rollback: withdraw all versions after N")
    parser.add_argument("--dry-run", action="store_true", help="only print the planned changes")
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_usage(arguments)
    check_exists(*[path for path in (arguments.saved_model, arguments.rollback, arguments.list) if path])
    if not (arguments.list or arguments.rollback or arguments.no_check):
        load_tensorflow()
    from keras_arcface import serving

    say = text_printer(arguments)
    if arguments.list:
        versions = serving.versions(arguments.list)
        if arguments.json:
            print_json({"base": str(arguments.list), "versions": versions})
        else:
            for version in versions:
                print(version)
        return
    with _printing_log(say):
        if arguments.rollback:
            newest = serving.rollback(arguments.rollback, arguments.to, arguments.dry_run)
            say(f"{newest} {'would be' if arguments.dry_run else 'is'} the newest version")
        else:
            newest = serving.publish(
                arguments.saved_model,
                arguments.base,
                version=arguments.version,
                keep=arguments.keep,
                protect=arguments.protect,
                check=not arguments.no_check,
                dry_run=arguments.dry_run,
            )
    if arguments.json:
        print_json({"newest": str(newest), "dry_run": arguments.dry_run})


def check_usage(arguments: argparse.Namespace) -> None:
    """Ends with a usage error if options for different purposes are combined."""
    other = "--rollback" if arguments.rollback else "--list" if arguments.list else None
    options: dict[str, Any] = {"version": None, "keep": None, "protect": [], "no_check": False}
    for_publishing = [name for name, default in options.items() if getattr(arguments, name) != default]
    if other and for_publishing:
        arguments.parser.error(f"--{for_publishing[0].replace('_', '-')} requires SAVED_MODEL")
    if other and arguments.saved_model:
        arguments.parser.error(f"{other} must not be combined with SAVED_MODEL. Received: {arguments.saved_model}")
    if arguments.to is not None and not arguments.rollback:
        arguments.parser.error("--to requires --rollback")


@contextlib.contextmanager
def _printing_log(say: Callable[..., None]) -> Iterator[None]:
    """Prints the log messages of the package about what it does."""
    handler = logging.Handler()
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(lambda record: record.levelno == logging.INFO)
    logger = logging.getLogger("keras_arcface")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
