"""Publishes a SavedModel as the next version in a base path, where TensorFlow Serving finds it within a second.

    python export/publish.py exported/faces models/faces --keep 5 --protect 3
    python export/publish.py --rollback models/faces
    python export/publish.py --rollback models/faces --to 3
    python export/publish.py --list models/faces

The SavedModel is copied, checked and renamed. Its number is the largest number ever used plus 1. --rollback withdraws
the newest version, or all versions after --to. --dry-run only prints the planned changes.
"""

import argparse
import logging
import sys

from keras_arcface import serving


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        usage="%(prog)s SAVED_MODEL BASE [options]\n       %(prog)s --rollback BASE [--to N] [--dry-run]\n"
        "       %(prog)s --list BASE",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="SAVED_MODEL BASE", help="directories of the SavedModel and of its versions"
    )
    parser.add_argument("--version", type=int, metavar="N", help="number of the version (default: the next number)")
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
    parser.add_argument("--rollback", action="store_true", help="withdraw the newest version of BASE")
    parser.add_argument("--to", type=int, metavar="N", help="with --rollback: withdraw all versions after N")
    parser.add_argument("--list", action="store_true", help="print the versions of BASE")
    parser.add_argument("--dry-run", action="store_true", help="only print the planned changes")
    arguments = parser.parse_intermixed_args()
    check_usage(parser, arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("keras_arcface").setLevel(logging.INFO)
    try:
        if arguments.list:
            print(*serving.versions(arguments.paths[0]), sep="\n")
        elif arguments.rollback:
            newest = serving.rollback(arguments.paths[0], arguments.to, arguments.dry_run)
            print(f"{newest} {'would be' if arguments.dry_run else 'is'} the newest version")
        else:
            serving.publish(
                *arguments.paths,
                version=arguments.version,
                keep=arguments.keep,
                protect=arguments.protect,
                check=not arguments.no_check,
                dry_run=arguments.dry_run,
            )
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


def check_usage(parser, arguments):
    publishing = not (arguments.rollback or arguments.list)
    if arguments.rollback and arguments.list:
        parser.error("--rollback and --list must not be combined")
    if len(arguments.paths) != 1 + publishing:
        parser.error(f"expected {'SAVED_MODEL BASE' if publishing else 'BASE'}. Received: {' '.join(arguments.paths)}")
    options = {"version": None, "keep": None, "protect": [], "no_check": False}
    for_publishing = [name for name, default in options.items() if getattr(arguments, name) != default]
    if for_publishing and not publishing:
        parser.error(f"--{for_publishing[0].replace('_', '-')} requires SAVED_MODEL")
    if arguments.to is not None and not arguments.rollback:
        parser.error("--to requires --rollback")


if __name__ == "__main__":
    main()
