"""Options for the size of images."""

import argparse


def add_size_options(parser: argparse.ArgumentParser, size_help: str) -> None:
    """Adds the options `--size` and `--resize`."""
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=size_help)
    parser.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="resize the shorter side to N pixels and crop the center of --size; default: resize to --size without "
        "keeping the aspect ratio",
    )


def check_size_options(arguments: argparse.Namespace) -> None:
    """Exits with an error of the parser if `--resize` cannot be combined with `--size`."""
    resize, size = arguments.resize, arguments.size
    if resize is not None and (size is None or resize < max(size)):
        received = "no --size" if size is None else f"--size {size[0]} {size[1]}"
        arguments.parser.error(f"--resize requires a --size of at most {resize} x {resize}. Received: {received}")
