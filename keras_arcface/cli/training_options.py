"""Options of the commands that train: those of the run, and one for each setting of a recipe."""

import argparse
import contextlib
import dataclasses
import datetime
import os
import re
import shlex
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_arcface import _choices
from keras_arcface import recipes
from keras_arcface.cli.embedders import add_license_option
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.output import add_json_option
from keras_arcface.recipes.recipe import SETTINGS
from keras_arcface.recipes.recipe import Recipe
from keras_arcface.recipes.recipe import choices_of


def add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="output folder, or the folder of a run to resume; default: a new folder in runs/",
    )
    parser.add_argument(
        "--teacher",
        metavar="PATH|NAME",
        help="embedder whose embeddings a recipe with distillation or teacher-centers imitates: a file or folder, or a "
        "published network, see `keras-arcface presets`",
    )
    add_license_option(parser)
    parser.add_argument(
        "--teacher-folder",
        type=Path,
        metavar="DIR",
        help="folder of the stored embeddings of the teacher; default: the directory of TFRecords",
    )
    parser.add_argument("--shuffle-seed", type=int, metavar="N", help="shuffle the pairs before the split into folds")
    parser.add_argument(
        "--every",
        type=_positive,
        metavar="N",
        help="steps between checkpoints and verifications; default: a tenth of all steps, at most 2000",
    )
    parser.add_argument("--steps", type=_positive, metavar="N", help="stop after this number of steps, for trials")
    parser.add_argument("--strategy", choices=_choices.STRATEGIES, default="auto", help="devices to train on")
    parser.add_argument("--precision", choices=_choices.PRECISIONS, default="auto", help="precision of the computation")
    parser.add_argument("--cache", choices=["encoded", "decoded"], help="keep the data in memory")
    parser.add_argument("--deterministic", action="store_true", help="get identical weights in each run (slower)")
    parser.add_argument("--replay", type=int, metavar="STEP", help="only show the images and names of this step")
    add_json_option(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each setting of a recipe."""
    group = parser.add_argument_group("settings of the recipe")
    for field in dataclasses.fields(Recipe):
        if field.name in SETTINGS:
            entries = typing.get_args(field.type)
            kind: Any = entries[0] if entries else field.type
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=kind,
                nargs="*" if entries else None,
                choices=choices_of(field.name),
                metavar={int: "N", float: "X", str: "NAME"}[kind],
                help=help_of(field.name),
            )


def help_of(name: str) -> str:
    """Returns the description of a setting, from the docstring of `Recipe`."""
    match = re.search(rf"^ +{name}: (.*(?:\n {{12}}.*)*)", Recipe.__doc__ or "", re.MULTILINE)
    return re.sub(r"\s+", " ", match[1]).rstrip(".").replace("`", "") if match else ""


def recipe_of(arguments: argparse.Namespace, default: str) -> Recipe:
    """Returns the chosen recipe with the settings that are given as options."""
    chosen = {name: getattr(arguments, name) for name in SETTINGS}
    return recipes.get(default, **{name: value for name, value in chosen.items() if value is not None})


def check_teacher(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Checks that a teacher is given exactly if the recipe requires one, and the teacher without loading it."""
    if recipe.needs_teacher and arguments.teacher is None:
        arguments.parser.error("a recipe with distillation or teacher-centers requires --teacher")
    if arguments.teacher is not None and not recipe.needs_teacher:
        arguments.parser.error("--teacher requires a recipe with distillation or teacher-centers, such as distilled")
    if arguments.teacher is not None:
        check_embedder(Path(arguments.teacher), arguments.accept_license, runtimes=True)


def set_output(arguments: argparse.Namespace) -> None:
    """Chooses a new output folder if none is given, and adds it to the command that resumes the run."""
    if arguments.output is None:
        arguments.output = Path("runs") / datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        arguments.command_line += f" --output {shlex.quote(str(arguments.output))}"


def select_backend(strategy: str) -> None:
    """Selects the Keras backend of a strategy. This must happen before Keras is imported."""
    if strategy != "jax":
        return
    if "keras" in sys.modules and sys.modules["keras"].backend.backend() != "jax":
        raise ValueError("--strategy jax requires the backend JAX. Set the environment variable KERAS_BACKEND=jax")
    os.environ["KERAS_BACKEND"] = "jax"


@contextlib.contextmanager
def resumable(arguments: argparse.Namespace) -> Iterator[None]:
    """Adds the command that resumes the run to the message of Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        reason = str(stopped) or "Stopped by Ctrl-C"
        raise KeyboardInterrupt(f"{reason}. To resume, run: {arguments.command_line}") from None


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1. Received: {text}")
    return number
