"""Converts aligned faces, or other images with labels, to TFRecords for training.

    keras-arcface convert faces_emore/train.rec ms1m_tfrecord --processes 8 --alignment five_points
    keras-arcface convert faces faces_tfrecord --min-images 3 --validation 0.05
    keras-arcface convert CUB_200_2011 birds_tfrecord --subset train --resize 256 --size 256 256
    keras-arcface convert Market-1501 market_tfrecord --subset train --size 256 128

The source is a RecordIO file (or a folder with train.rec), a folder with one sub-folder of images per person, a CSV
file of `path,label`, or a `.lst` file of mxnet or InsightFace; or the directory of CUB-200-2011, Cars196, Stanford
Online Products, In-Shop, Market-1501 or DukeMTMC-reID, with --subset train. Every image is decoded once to check it.
JPEG and PNG files are copied unchanged, other formats are converted to PNG, and --size resizes images of any size,
also to PNG. The same command continues an interrupted conversion, and leaves a finished one unchanged. --alignment
five_points records that the faces are aligned by the five-point template, as in InsightFace's sets and by data.align.
"""

import argparse
from pathlib import Path

from keras_arcface._choices import ALIGNMENTS
from keras_arcface.cli.dataset_facts import dataset_facts
from keras_arcface.cli.dataset_facts import dataset_summary
from keras_arcface.cli.image_size import add_size_options
from keras_arcface.cli.image_size import check_size_options
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="source of images, see above")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="directory for the TFRecords")
    parser.add_argument("--subset", metavar="NAME", help="subset of a benchmark, such as train")
    add_size_options(parser, "size to which all images are resized; default: all images must have the same size")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="number of processes; default 1")
    parser.add_argument(
        "--min-images", type=int, default=1, metavar="N", help="leave out people with fewer images; default 1"
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="X",
        help="fraction of people to hold out; writes OUTPUT/train and OUTPUT/validation",
    )
    parser.add_argument(
        "--alignment",
        choices=ALIGNMENTS,
        help="alignment of the faces, if known; exported models state it in their metadata",
    )
    parser.add_argument("--skip-damaged", action="store_true", help="skip damaged images and list them in dataset.json")
    parser.add_argument("--follow-links", action="store_true", help="follow links that leave the folder of the images")
    parser.add_argument("--no-check", action="store_true", help="do not decode the images to check them")
    parser.add_argument(
        "--examples-per-shard",
        type=int,
        default=10_000,
        metavar="N",
        help="largest number of images in a file; default 10000",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the shuffle and of the validation split; default 0"
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.source)
    check_size_options(arguments)
    load_tensorflow()
    from keras_arcface import data

    say = text_printer(arguments)
    source = data.open_source(arguments.source, arguments.follow_links, arguments.subset)
    if arguments.size is not None:
        source = data.Resized(source, arguments.size, arguments.resize)
    parts: dict[Path, data.Source] = {arguments.output: source}
    if arguments.validation:
        training, validation = data.split_identities(
            data.drop_small_classes(source, arguments.min_images), arguments.validation, arguments.seed
        )
        parts = {arguments.output / "train": training, arguments.output / "validation": validation}
    written = []
    for output, part in parts.items():
        existed = (output / "dataset.json").exists()
        info = data.write_dataset(
            part,
            output,
            arguments.examples_per_shard,
            arguments.seed,
            processes=arguments.processes,
            check=not arguments.no_check,
            damaged="skip" if arguments.skip_damaged else "raise",
            alignment=arguments.alignment,
            min_images=arguments.min_images,
        )
        written.append({"directory": str(output), "existed": existed, **dataset_facts(info)})
        say(f"{output} {'already exists: ' if existed else ''}{dataset_summary(info)}")
        if info.skipped:
            say(f"{len(info.skipped):,} records were skipped; dataset.json lists them")
    if arguments.json:
        print_json({"datasets": written})
