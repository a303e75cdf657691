"""Writes a folder of aligned faces, one sub-folder per person, as TFRecords to train on.

    python examples/make_tfrecords.py faces faces_tfrecord
    python examples/train_ms1m.py --data faces_tfrecord

Every image is decoded once to check it, and written as it is.
"""

import argparse
from pathlib import Path

from keras_arcface import data


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="images, one sub-folder per person, all of one size")
    parser.add_argument("output", type=Path, help="new directory for the TFRecords")
    parser.add_argument("--examples-per-shard", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle over all shards")
    arguments = parser.parse_args()
    try:
        info = data.write_dataset(
            data.ImageFolder(arguments.folder), arguments.output, arguments.examples_per_shard, arguments.seed
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(
        f"{arguments.output}: {info.num_examples:,} images of {info.num_classes:,} people, "
        f"{info.image_size[0]} x {info.image_size[1]}, in {len(info.shards)} shard(s)"
    )


if __name__ == "__main__":
    main()
