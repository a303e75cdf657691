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
--relabel FILE leaves out or joins the people that `keras-arcface overlap` found.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface._choices import ALIGNMENTS
from keras_arcface._messages import cut
from keras_arcface.cli.beam_options import add_beam_option
from keras_arcface.cli.beam_options import check_beam_option
from keras_arcface.cli.beam_options import make_runner
from keras_arcface.cli.dataset_facts import dataset_facts
from keras_arcface.cli.dataset_facts import dataset_summary
from keras_arcface.cli.image_size import add_size_options
from keras_arcface.cli.image_size import check_size_options
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow

if TYPE_CHECKING:
    import numpy as np

    from keras_arcface.data import Source

# Columns of the file of --relabel.
RELABEL_COLUMNS = ("label", "new_label", "name")


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
        "--relabel",
        type=Path,
        metavar="FILE",
        help="CSV file with the columns label and new_label, such as overlap.csv: joins two classes, or leaves out the "
        "class if new_label is -1",
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
    add_beam_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.source, *([arguments.relabel] if arguments.relabel else []))
    check_size_options(arguments)
    check_beam_option(arguments)
    load_tensorflow()
    from keras_arcface import data

    say = text_printer(arguments)
    source = data.open_source(arguments.source, arguments.follow_links, arguments.subset)
    if arguments.relabel:
        source = data.relabel_classes(source, read_relabeling(arguments.relabel, source))
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
            runner=make_runner(arguments),
        )
        written.append({"directory": str(output), "existed": existed, **dataset_facts(info)})
        say(f"{output} {'already exists: ' if existed else ''}{dataset_summary(info)}")
        if info.skipped:
            say(f"{len(info.skipped):,} records were skipped; dataset.json lists them")
    if arguments.json:
        print_json({"datasets": written})


def read_relabeling(path: Path, source: Source) -> np.ndarray:
    """Reads the pairs of labels of a CSV file with a header.

    Args:
        path: file with the columns `label` and `new_label`, and possibly `name`, the name of the class.
        source: source of the classes.

    Returns:
        `(n, 2)` int64, a label and its new label in each row.

    Raises:
        ValueError: if the file has no such columns, or a line is invalid. The message names the line.
    """
    import numpy as np

    pairs = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            missing = [name for name in RELABEL_COLUMNS[:2] if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"{path}, line 1: expected the columns label and new_label. "
                    f"Received: {cut(','.join(reader.fieldnames or ()), 80)!r}"
                )
            for row in reader:
                where, count = f"{path}, line {reader.line_num}", source.num_classes
                label, new_label = (_to_integer(row[name]) for name in RELABEL_COLUMNS[:2])
                if not 0 <= label < count or not -1 <= new_label < count:
                    raise ValueError(
                        f"{where}: expected a label in [0, {count}) and a new label in [-1, {count}), the classes of "
                        f"{source}. Received: label={cut(str(row['label']), 40)}, "
                        f"new_label={cut(str(row['new_label']), 40)}"
                    )
                name = row.get("name")
                if source.class_names is not None and name and name != printable(source.class_names[label]):
                    raise ValueError(
                        f"{where}: expected {cut(source.class_names[label], 80)!r}, the name of class {label} of "
                        f"{source}. Received: {cut(name, 80)!r}. Is the file of another source?"
                    )
                pairs.append((label, new_label))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}, line {reader.line_num}: expected UTF-8 text. Received: {error}") from error
    return np.array(pairs, np.int64).reshape(-1, 2)


def printable(name: str) -> str:
    """Returns a name as `overlap` writes it, where bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _to_integer(cell: str | None) -> int:
    """Returns the integer of a cell, or -2, which is no label."""
    try:
        return int(cell or "")
    except ValueError:
        return -2
