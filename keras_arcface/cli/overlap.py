"""Finds people who are in two sets, such as a training and a test set, or twice in one set.

    keras-arcface overlap ms1m_tfrecord lfw.bin --output overlap
    keras-arcface overlap ms1m_tfrecord --output duplicates
    keras-arcface convert ms1m_tfrecord clean_tfrecord --relabel overlap/overlap.csv

Each set is a directory of TFRecords, a folder with one sub-folder of images per person, a .rec, .csv or .lst file, or a
.bin or .npz file of pairs. The command compares the mean embeddings of all people of FIRST with those of SECOND, or
with each other if there is only one set, and writes the pairs above a threshold to DIR/overlap.csv and their images to
DIR/overlap.html. By default, the threshold is the score for which one false alarm is expected, however many people are
compared.

Look at the page, and delete the lines of different people from the CSV file. Then `convert FIRST OUTPUT --relabel
DIR/overlap.csv` writes FIRST without the people of SECOND, or joins the classes of the same person.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface._messages import counted
from keras_arcface.cli.convert import RELABEL_COLUMNS
from keras_arcface.cli.embedders import add_embedder_option
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.embedders import load_embedder
from keras_arcface.cli.image_size import add_size_options
from keras_arcface.cli.image_size import check_size_options
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.paths import check_writable
from keras_arcface.cli.startup import load_tensorflow

if TYPE_CHECKING:
    import numpy as np

    from keras_arcface.data import Source
    from keras_arcface.evaluation import Overlap

_MAX_ROWS = 20  # of the printed table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="FIRST", help="set whose people are looked for and removed")
    parser.add_argument("second", type=Path, nargs="?", metavar="SECOND", help="other set; by default, only FIRST")
    add_embedder_option(parser)
    thresholds = parser.add_mutually_exclusive_group()
    thresholds.add_argument(
        "--false-alarms",
        type=float,
        default=1.0,
        metavar="N",
        help="expected number of pairs of different people, which sets the threshold; default 1",
    )
    thresholds.add_argument("--threshold", type=float, metavar="X", help="lowest cosine of the mean embeddings")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch; default 64")
    add_size_options(parser, "size to which all images are resized; default: all images must have the same size")
    parser.add_argument("--follow-links", action="store_true", help="follow links that leave the folder of the images")
    parser.add_argument(
        "--output", type=Path, default=Path("overlap"), metavar="DIR", help="output folder; default overlap"
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    paths = [arguments.first, *([arguments.second] if arguments.second else [])]
    check_exists(*paths)
    check_size_options(arguments)
    check_embedder(arguments.embedder, arguments.accept_license)
    arguments.output.mkdir(parents=True, exist_ok=True)
    check_writable(arguments.output)
    load_tensorflow()
    import numpy as np

    from keras_arcface import evaluation
    from keras_arcface.evaluation.overlap_page import false_alarms_text
    from keras_arcface.evaluation.overlap_page import person_name

    say = text_printer(arguments)
    first = open_images(arguments.first, arguments.follow_links)
    second = open_images(arguments.second, arguments.follow_links) if arguments.second else None
    embedder = load_embedder(arguments.embedder, arguments.accept_license)
    size = tuple(arguments.size) if arguments.size else None

    def embed(source: Source) -> np.ndarray:
        return evaluation.embed_images(
            embedder, source, flip=False, batch_size=arguments.batch_size, size=size, resize=arguments.resize
        )

    overlap = evaluation.find_overlap(
        embed(first),
        first.labels,
        None if second is None else embed(second),
        None if second is None else second.labels,
        threshold=arguments.threshold,
        false_alarms=arguments.false_alarms,
    )
    table, page = arguments.output / "overlap.csv", arguments.output / "overlap.html"
    write_table(overlap, first, second, table)
    evaluation.write_overlap_page(page, overlap, first, second)

    people = f"{len(np.unique(first.labels)):,} people of {arguments.first}"
    if second is not None:
        people += f" and {len(np.unique(second.labels)):,} of {arguments.second}"
    say(f"{people}: {counted(overlap.compared, 'pair')} of people")
    say(f"{count_text(len(overlap))} at least {overlap.threshold:.3f}. {false_alarms_text(overlap)}")
    if len(overlap):
        shown = range(min(len(overlap), _MAX_ROWS))
        rows = [
            [
                person_name(first, overlap.first_labels.item(pair)),
                person_name(second or first, overlap.second_labels.item(pair)),
                f"{overlap.scores[pair]:.3f}",
                f"{overlap.image_scores[pair]:.3f}",
            ]
            for pair in shown
        ]
        columns = [str(first), str(second or first), "score", "best images"]
        say(f"\n{evaluation.Table(columns, rows)}")
        if len(overlap) > len(shown):
            say(f"and {len(overlap) - len(shown):,} more")
    say("\nWritten:", table, page, sep="\n  ")
    if arguments.json:
        figures = evaluation.to_json(overlap)
        names = ("first_labels", "second_labels", "scores", "image_scores")
        pairs = [
            {"label": label, "other_label": other, "score": score, "image_score": image_score}
            for label, other, score, image_score in zip(*(figures[name] for name in names), strict=True)
        ]
        totals = {name: figures[name] for name in ("compared", "threshold", "false_alarms")}
        print_json({**totals, "pairs": pairs, "files": [str(table), str(page)]})


def open_images(path: Path, follow_links: bool) -> Source:
    """Opens a set of pairs or a source, whose images all have a valid label."""
    from keras_arcface import data
    from keras_arcface.data.subsets import check_labels

    if path.is_file() and path.suffix.lower() in (".bin", ".npz"):
        return data.PairImages(data.PairSet.load(path))
    source = data.open_source(path, follow_links)
    check_labels(source)
    return source


def count_text(pairs: int) -> str:
    return "1 pair scores" if pairs == 1 else f"{pairs:,} pairs score"


def write_table(overlap: Overlap, first: Source, second: Source | None, path: Path) -> None:
    """Writes one line per pair, whose first columns are those of `convert --relabel`."""
    from keras_arcface.evaluation.overlap_page import person_name

    others = first if second is None else second
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        columns = ["other_label", "other_name", "score", "image", "other_image", "image_score"]
        table.writerow([*RELABEL_COLUMNS, *columns])
        for pair in range(len(overlap)):
            label, other = overlap.first_labels.item(pair), overlap.second_labels.item(pair)
            first_row, second_row = overlap.first_rows.item(pair), overlap.second_rows.item(pair)
            table.writerow(
                [
                    *(label, other if second is None else -1, person_name(first, label)),
                    *(other, person_name(others, other), f"{overlap.scores[pair]:.4f}"),
                    *(first[first_row].name, others[second_row].name, f"{overlap.image_scores[pair]:.4f}"),
                ]
            )
