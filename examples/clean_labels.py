"""Finds images with a wrong label and writes the dataset without them.

    python examples/train_ms1m.py --data ms1m_tfrecord --sub-centers 3 --output runs/noisy
    python examples/clean_labels.py ms1m_tfrecord runs/noisy clean_tfrecord
    python examples/train_ms1m.py --data clean_tfrecord --output runs/clean

In a head with sub-centers, wrongly labeled images of a class collect at a separate sub-center. This script drops images
that are farther than --max-angle from the dominant sub-center of their class. If such an image is closer than
--relabel-below to another class, it gets the label of that class instead. RUN/label_noise.csv lists all images,
RUN/label_noise.png shows the farthest.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving


def main():
    arguments = parse_arguments()
    source = data.TFRecords(arguments.data)
    embedder = serving.load_embedder(arguments.run / "embedder.keras")
    images = data.load_dataset(arguments.data, batch_size=64)
    embeddings, labels = evaluation.embed_dataset(embedder, images, flip=False)
    noise = evaluation.find_label_noise(embeddings, labels, np.load(arguments.run / "centers.npy"))
    cleaned = noise.clean_labels(np.deg2rad(arguments.max_angle), np.deg2rad(arguments.relabel_below))

    written = [write_table(source, noise, cleaned, arguments.run / "label_noise.csv")]
    plot = arguments.run / "label_noise.png"
    written.append(evaluation.plot_label_noise(noise, cleaned, lambda image: decode(source[image]), plot))
    alignment = data.load_info(arguments.data).alignment
    relabeled = data.Relabeled(source, cleaned)
    info = data.write_dataset(relabeled, arguments.output, seed=arguments.seed, alignment=alignment)
    written.append(arguments.output)
    dropped, relabeled_count = np.sum(cleaned == -1), np.sum((cleaned >= 0) & (cleaned != labels))
    print(
        f"{dropped:,} of {len(labels):,} images dropped, {relabeled_count:,} relabeled; "
        f"{info.num_classes:,} of {source.num_classes:,} people remain"
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
            row = [noise.labels[index], degrees, noise.nearest_classes[index], to_nearest, cleaned[index]]
            table.writerow([source[index].name, *row])
    return path


def decode(record):
    return cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory of TFRecords used for the training run")
    parser.add_argument("run", type=Path, help="output folder of train_ms1m.py, run with --sub-centers 2 or more")
    parser.add_argument("output", type=Path, help="new directory for the TFRecords")
    parser.add_argument("--max-angle", type=float, default=75.0, help="in degrees; default: 75, as in the paper")
    parser.add_argument("--relabel-below", type=float, default=0.0, help="in degrees; default: 0, no relabeling")
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffle over all shards")
    return parser.parse_args()


if __name__ == "__main__":
    main()
