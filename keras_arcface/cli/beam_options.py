"""The option of commands that can run on Apache Beam."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keras_arcface._optional import require

if TYPE_CHECKING:
    from keras_arcface.beam import BeamRunner


def add_beam_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--beam`, which takes the rest of the command line."""
    parser.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        metavar="OPTION",
        help="run on Apache Beam with the options that follow, such as --runner=FlinkRunner; the last option",
    )


def check_beam_option(arguments: argparse.Namespace) -> None:
    """Checks the option without loading Apache Beam.

    Raises:
        ModuleNotFoundError: if Apache Beam is not installed.
        ValueError: if the number of processes is given too.
    """
    if arguments.beam is None:
        return
    require("apache_beam", "beam", "--beam")
    if arguments.processes != 1:
        raise ValueError(
            "Expected either --processes or --beam. Processes of Beam on this machine: --beam "
            f"--direct_running_mode=multi_processing --direct_num_workers={arguments.processes}. "
            f"Received: --processes {arguments.processes} and --beam"
        )


def make_runner(arguments: argparse.Namespace) -> BeamRunner | None:
    """Returns the runner of the option, or None without it."""
    if arguments.beam is None:
        return None
    from keras_arcface.beam import BeamRunner

    return BeamRunner(arguments.beam)
