"""Converts aligned faces to TFRecords for training.

    python examples/make_tfrecords.py faces_emore/train.rec ms1m_tfrecord --processes 8
    python examples/make_tfrecords.py faces faces_tfrecord --min-images 3 --validation 0.05
    python examples/train_ms1m.py --data ms1m_tfrecord

The source is a RecordIO file (or a folder with train.rec), a folder with one sub-folder of images per person, a CSV
file of `path,label`, or a `.lst` file of mxnet or InsightFace. Every image is decoded once to check it. JPEG and PNG
files are copied unchanged, other formats are converted to PNG. The same command continues an interrupted conversion,
and leaves a finished one unchanged. --alignment five_points records that the faces are aligned by the five-point
template, as in InsightFace's sets and by data.align.

This command compares a dataset with its checksums:

    python examples/make_tfrecords.py --check ms1m_tfrecord
"""

import argparse
import logging
from pathlib import Path

from keras_arcface import data
from keras_arcface.data.alignment import ALIGNMENTS


def main():
    arguments = parse_arguments()
    logging.basicConfig(format="%(message)s")
    try:
        if arguments.check:
            report(arguments.source, data.check_dataset(arguments.source), "is intact: ")
            return
        source = open_source(arguments.source, arguments.follow_links)
        parts = {arguments.output: source}
        if arguments.validation:
            training, validation = data.split_identities(
                data.drop_small_classes(source, arguments.min_images), arguments.validation, arguments.seed
            )
            parts = {arguments.output / "train": training, arguments.output / "validation": validation}
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
            report(output, info, "already exists: " if existed else "")
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())])) from None


def open_source(path: Path, follow_links: bool):
    """Opens a path as the kind of source that it contains."""
    if path.suffix.lower() in (".csv", ".lst"):
        return data.ImageList(path, follow_links=follow_links)
    if path.suffix.lower() == ".rec" or (path / "train.rec").is_file():
        return data.RecordIO(path)
    return data.ImageFolder(path, follow_links)


def report(directory: Path, info: data.DatasetInfo, state: str = "") -> None:
    print(
        f"{directory} {state}{info.num_examples:,} images of {info.num_classes:,} people, "
        f"{info.image_size[0]} x {info.image_size[1]}, in {len(info.shards)} shard(s)"
    )
    if info.skipped:
        print(f"{len(info.skipped):,} records were skipped; dataset.json lists them")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help=".rec file, folder of folders, .csv or .lst; with --check, a dataset")
    parser.add_argument("output", type=Path, nargs="?", help="directory for the TFRecords")
    parser.add_argument("--check", action="store_true", help="verify a dataset against its checksums")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--min-images", type=int, default=1, help="leave out people with fewer images")
    parser.add_argument(
        "--validation",
        type=float,
        default=0.0,
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
    parser.add_argument("--examples-per-shard", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffle and of the validation split")
    arguments = parser.parse_args()
    if (arguments.output is None) != arguments.check:
        parser.error("expected a source and an output, or --check and a dataset")
    return arguments


if __name__ == "__main__":
    main()
