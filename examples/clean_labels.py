"""Finds images under a wrong label, and writes the dataset without them.

    python examples/train_ms1m.py --data ms1m_tfrecord --sub-centers 3 --output runs/noisy
    python examples/clean_labels.py ms1m_tfrecord runs/noisy clean_tfrecord
    python examples/train_ms1m.py --data clean_tfrecord --output runs/clean

A head with sub-centers lets the noise of a class gather beside its people. An image farther than --max-angle from the
sub-center where most of its class is gets dropped, or the label of the class it is nearest to, if it is nearer to that
than --relabel-below. RUN/label_noise.csv lists all images, RUN/label_noise.png shows the farthest.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from keras_arcface import data
from keras_arcface import evaluation


def main():
    arguments = parse_arguments()
    source = data.TFRecords(arguments.data)
    embedder = evaluation.load_embedder(arguments.run / "embedder.keras")
    images = data.load_dataset(arguments.data, batch_size=64)
    embeddings, labels = evaluation.embed_dataset(embedder, images, flip=False)
    noise = evaluation.find_label_noise(embeddings, labels, np.load(arguments.run / "centers.npy"))
    cleaned = noise.cleaned(np.deg2rad(arguments.max_angle), np.deg2rad(arguments.relabel_below))

    written = [write_table(source, noise, cleaned, arguments.run / "label_noise.csv")]
    picture = arguments.run / "label_noise.png"
    written.append(evaluation.plot_label_noise(noise, cleaned, lambda image: pixels(source[image]), picture))
    alignment = data.load_info(arguments.data).alignment
    relabeled = data.Relabeled(source, cleaned)
    info = data.write_dataset(relabeled, arguments.output, seed=arguments.seed, alignment=alignment)
    written.append(arguments.output)
    dropped, moved = np.sum(cleaned == -1), np.sum((cleaned >= 0) & (cleaned != labels))
    print(
        f"{dropped:,} of {len(labels):,} images dropped, {moved:,} relabeled; "
        f"{info.num_classes:,} of {source.num_classes:,} people are left"
    )
    print("\nWritten:", *written, sep="\n  ")


def write_table(source, noise, cleaned, path: Path) -> Path:
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "label", "degrees", "nearest", "degrees_to_nearest", "cleaned"])
        for index in range(len(source)):
            degrees, to_nearest = (
                f"{np.rad2deg(angles[index]):.2f}" for angles in (noise.angles, noise.nearest_angles)
            )
            row = [noise.labels[index], degrees, noise.nearest[index], to_nearest, cleaned[index]]
            table.writerow([source[index].name, *row])
    return path


def pixels(record):
    return cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory of TFRecords that the run was trained on")
    parser.add_argument("run", type=Path, help="folder that train_ms1m.py wrote, with --sub-centers 2 or more")
    parser.add_argument("output", type=Path, help="new directory for the TFRecords")
    parser.add_argument("--max-angle", type=float, default=75.0, help="degrees; the paper's 75 by default")
    parser.add_argument("--relabel-below", type=float, default=0.0, help="degrees; by default nothing is relabeled")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle over all shards")
    return parser.parse_args()


if __name__ == "__main__":
    main()
