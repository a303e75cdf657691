"""Trains an embedder on TFRecords with a recipe, and exports it.

    keras-arcface train --data ms1m_tfrecord --recipe ms1mv2_r100 --verify lfw.bin cfp_fp.bin --output runs/1
    keras-arcface train --data faces_tfrecord --recipe small --epochs 40 --drops 20 30 --schedule step
    keras-arcface train --data faces_tfrecord --recipe distilled --teacher teacher.keras
    keras-arcface train --recipe small --print-recipe

The command uses all GPUs of the machine. If a run is stopped (Ctrl-C stops it after a step) or killed, the same command
resumes it. The output folder contains embedder.keras, recipe.toml, steps.csv, verification.csv, event files for
TensorBoard, curves.png, checkpoints/, verification.png, and saved_model/1, a version for TensorFlow Serving. With a
verification set, the SavedModel matches the printed figures: it adds the embedding of the mirror image, and contains
the thresholds of the set.

With --teacher, the network learns to give images the embeddings of another, trained network, as the recipe "distilled"
does. The embeddings of the teacher are computed once and stored beside the TFRecords.

A recipe is the name of one of the recipes below or a TOML file, which may start from another recipe with the line
`base = "NAME"`. --print-recipe prints the chosen recipe as such a file.
"""

import argparse
from pathlib import Path

from keras_arcface import recipes
from keras_arcface.cli import training_options
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow
from keras_arcface.recipes.files import to_toml

_DEFAULT_RECIPE = "ms1mv3_r50"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --data DIR [options]"
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="directory of TFRecords, written by `convert`; required"
    )
    parser.add_argument(
        "--recipe",
        default=_DEFAULT_RECIPE,
        metavar="NAME|FILE.toml",
        help=f"recipe, see below; default: {_DEFAULT_RECIPE}",
    )
    parser.add_argument(
        "--verify", type=Path, nargs="+", default=[], metavar="PAIRS", help="verification sets, .bin or .npz"
    )
    training_options.add_run_options(parser)
    parser.add_argument("--print-recipe", action="store_true", help="only print the recipe as a TOML file")
    training_options.add_settings(parser)
    width = max(map(len, recipes.names()))
    summaries = [f"  {name:{width}}  {recipes.get(name).summary}" for name in recipes.names()]
    parser.epilog = "\n".join(["recipes:", *summaries])


def run(arguments: argparse.Namespace) -> None:
    recipe = training_options.recipe_of(arguments, arguments.recipe)
    if arguments.print_recipe:
        print(to_toml(recipe), end="")
        return
    if arguments.data is None:
        arguments.parser.error("the following arguments are required: --data")
    training_options.check_teacher(arguments, recipe)
    check_exists(arguments.data, *arguments.verify)
    names = [path.stem for path in arguments.verify]
    if len(set(names)) < len(names):
        raise ValueError(f"--verify must have files with different names. Received: {', '.join(names)}")
    training_options.set_output(arguments)
    training_options.select_backend(arguments.strategy)
    with training_options.resumable(arguments):
        load_tensorflow()
        from keras_arcface import data
        from keras_arcface.cli import training_run

        sets = {name: data.PairSet.load(path) for name, path in zip(names, arguments.verify, strict=True)}
        training_run.run(arguments, recipe, arguments.data, sets)
