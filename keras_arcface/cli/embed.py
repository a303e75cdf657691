"""Computes the embeddings of many images and stores them as Parquet files.

    keras-arcface embed faces_tfrecord faces_embeddings --embedder runs/1/embedder.keras
    keras-arcface embed aligned/faces faces_embeddings --processes 2 --dtype int8 --skip-damaged

The source is anything that `convert` reads, or the TFRecords that it writes. Each file has the columns name, label,
embedding (L2-normalized), norm, and scale for int8. embeddings.json has the checksum of the embedder. The same command
continues after an interruption, and leaves finished embeddings unchanged.

`evaluate --retrieval`, `cluster` and `enroll` take the directory instead of images, and need no embedder for it.
`enroll` requires --no-flip, because `identify` does not add mirror images. `evaluation.StoredEmbeddings` reads the
files in Python.
"""

import argparse
from pathlib import Path
from typing import Any

from keras_arcface._choices import EMBEDDING_DTYPES
from keras_arcface._messages import counted
from keras_arcface._optional import require
from keras_arcface.cli.beam_options import add_beam_option
from keras_arcface.cli.beam_options import check_beam_option
from keras_arcface.cli.beam_options import make_runner
from keras_arcface.cli.embedders import add_embedder_option
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.embedders import load_embedder
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="TFRecords, .rec file, folder of folders, or list")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="directory for the Parquet files")
    add_embedder_option(parser)
    parser.add_argument("--dtype", choices=EMBEDDING_DTYPES, default="float32", help="default float32")
    parser.add_argument(
        "--no-flip", dest="flip", action="store_false", help="do not add the embedding of the mirror image"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="number of processes; default 1")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch; default 64")
    parser.add_argument(
        "--images-per-shard", type=int, default=100_000, metavar="N", help="images in a file; default 100000"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="size to which images are resized"
    )
    parser.add_argument(
        "--skip-damaged", action="store_true", help="skip images that cannot be embedded, and list them"
    )
    parser.add_argument("--follow-links", action="store_true", help="follow links that leave the folder of the images")
    add_json_option(parser)
    add_beam_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.source)
    check_embedder(arguments.embedder, arguments.accept_license)
    require("pyarrow", "parquet", "embed")
    check_beam_option(arguments)
    load_tensorflow()
    from keras_arcface import data
    from keras_arcface import evaluation
    from keras_arcface.serving.embedder_facts import weights_sha256

    say = text_printer(arguments)
    embedder = load_embedder(arguments.embedder, arguments.accept_license)
    stored = evaluation.write_embeddings(
        data.open_source(arguments.source, arguments.follow_links),
        arguments.output,
        embedder,
        weights_sha256(embedder),
        dtype=arguments.dtype,
        flip=arguments.flip,
        images_per_shard=arguments.images_per_shard,
        batch_size=arguments.batch_size,
        processes=arguments.processes,
        size=tuple(arguments.size) if arguments.size else None,
        damaged="skip" if arguments.skip_damaged else "raise",
        runner=make_runner(arguments),
    )
    facts: dict[str, Any] = {"images": len(stored), "dim": stored.dim, "dtype": stored.dtype, "flip": stored.flip}
    facts |= {"embedder_sha256": stored.embedder_sha256, "skipped": list(stored.skipped)}
    say(f"{arguments.output}: {len(stored):,} embeddings of {stored.dim} dimensions, {stored.dtype}")
    if stored.skipped:
        skipped = counted(len(stored.skipped), "image was", "images were")
        say(f"{skipped} skipped; embeddings.json lists {'it' if len(stored.skipped) == 1 else 'them'}")
    if arguments.json:
        print_json({"directory": str(arguments.output), **facts})
