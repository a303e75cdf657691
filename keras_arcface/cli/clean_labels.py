"""Finds images with a wrong label and writes the dataset without them.

    keras-arcface train --data ms1m_tfrecord --sub-centers 3 --output runs/noisy
    keras-arcface clean-labels ms1m_tfrecord runs/noisy clean_tfrecord
    keras-arcface train --data clean_tfrecord --output runs/clean

In a head with sub-centers, wrongly labeled images of a class collect at a separate sub-center. The command drops images
that are farther than --max-angle from the dominant sub-center of their class. If such an image is closer than
--relabel-below to another class, it gets the label of that class instead. RUN/label_noise.csv lists all images, and
RUN/label_noise.png shows the farthest.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.paths import check_writable
from keras_arcface.cli.startup import load_tensorflow

if TYPE_CHECKING:
    import numpy as np

    from keras_arcface.data import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="directory of TFRecords used for the training run")
    parser.add_argument(
        "run_directory", type=Path, metavar="RUN", help="output of a training with --sub-centers 2 or more"
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="new directory for the TFRecords")
    parser.add_argument(
        "--max-angle",
        type=float,
        default=75.0,
        metavar="X",
        help="largest angle to the dominant sub-center, in degrees; default 75, as in the paper",
    )
    parser.add_argument(
        "--relabel-below",
        type=float,
        default=0.0,
        metavar="X",
        help="dropped images below this angle to another class get its label, in degrees; default 0, none",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch; default 64")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the shuffle over all shards; default 0"
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    folder = arguments.run_directory
    check_exists(arguments.data, folder / "embedder.keras", folder / "centers.npy")
    check_writable(folder)
    load_tensorflow()
    import numpy as np

    from keras_arcface import data
    from keras_arcface import evaluation
    from keras_arcface import serving
    from keras_arcface._optional import require
    from keras_arcface.data import encoded_images

    require("matplotlib", "plots", "clean-labels")
    say = text_printer(arguments)
    source = data.TFRecords(arguments.data)
    embedder = serving.load_embedder(folder / "embedder.keras")
    images = data.load_dataset(arguments.data, batch_size=arguments.batch_size)
    embeddings, labels = evaluation.embed_dataset(embedder, images, flip=False)
    noise = evaluation.find_label_noise(embeddings, labels, np.load(folder / "centers.npy"))
    cleaned = noise.clean_labels(np.deg2rad(arguments.max_angle), np.deg2rad(arguments.relabel_below))

    written = [write_table(source, noise, cleaned, folder / "label_noise.csv")]
    plot = folder / "label_noise.png"
    written.append(
        evaluation.plot_label_noise(
            noise, cleaned, lambda row: encoded_images.decode(source[row].image, source[row].name), plot
        )
    )
    alignment = data.load_info(arguments.data).alignment
    relabeled = data.Relabeled(source, cleaned)
    info = data.write_dataset(relabeled, arguments.output, seed=arguments.seed, alignment=alignment)
    written.append(arguments.output)
    dropped, moved = int(np.sum(cleaned == -1)), int(np.sum((cleaned >= 0) & (cleaned != labels)))
    say(
        f"{dropped:,} of {len(labels):,} images dropped, {moved:,} relabeled; "
        f"{info.num_classes:,} of {source.num_classes:,} people remain"
    )
    say("\nWritten:", *written, sep="\n  ")
    if arguments.json:
        before = {"num_examples": len(labels), "num_classes": source.num_classes}
        after = {"num_examples": info.num_examples, "num_classes": info.num_classes}
        files = [str(path) for path in written]
        print_json({"before": before, "after": after, "dropped": dropped, "relabeled": moved, "files": files})


def write_table(source: Source, noise: Any, cleaned: np.ndarray, path: Path) -> Path:
    """Writes one line per image: its angles to its class and to the nearest other class, and its new label."""
    import numpy as np

    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "label", "degrees", "nearest", "degrees_to_nearest", "cleaned"])
        for index in range(len(source)):
            degrees, to_nearest = (
                f"{np.rad2deg(angles[index]):.2f}" for angles in (noise.angles, noise.nearest_angles)
            )
            row = [noise.labels[index], degrees, noise.nearest_classes[index], to_nearest, cleaned[index]]
            table.writerow([source[index].name, *row])
    return path
