"""Measures the effect of wrong labels, and of sub-centers and the noise filter against them.

    python benchmarks/label_noise.py cfp_tfrecord lfw_dev.bin --output noise \\
        --options "--recipe small --stem-strides 2 --width 16 --epochs 12 --warmup 1 --warmup-margin 6"

For each seed, a different set of labels is flipped. train_ms1m.py then trains on the original labels, on the flipped
labels, with the filter, with sub-centers, and on the dataset that clean_labels.py cleans with the sub-centers. The
tables show the verification result of each training, and the precision and recall of the dropped images. The same
command continues an interrupted benchmark.
"""

import argparse
import csv
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving

EXAMPLES = Path(__file__).parents[1] / "examples"


def flip_labels(source, share, seed):
    """Returns the labels with a fraction of them flipped, and a mask of the flipped ones."""
    generator = np.random.default_rng(seed)
    wrong = np.zeros(len(source), bool)
    wrong[generator.permutation(len(source))[: round(share * len(source))]] = True
    other = generator.integers(1, source.num_classes, len(source))
    return np.where(wrong, (source.labels + other) % source.num_classes, source.labels), wrong


def write_flipped(source, share, seed, directory):
    labels, wrong = flip_labels(source, share, seed)
    if not directory.exists():
        data.write_dataset(data.Relabeled(source, labels), directory, seed=seed)
    return {source[index].name: bool(wrong[index]) for index in range(len(source))}


def script(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, env=os.environ
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stderr[-2000:]}")


def train(directory, output, seed, arguments, *options):
    """Trains if necessary, and returns the accuracy and AUC on the pairs."""
    if not (output / "embedder.keras").exists():
        common = shlex.split(arguments.options)
        script("train_ms1m.py", "--data", directory, "--output", output, "--seed", seed, *common, *options)
    pairs = data.PairSet.load(arguments.pairs)
    embeddings = evaluation.embed_pairs(serving.load_embedder(output / "embedder.keras"), pairs)
    result = evaluation.verify(embeddings, pairs.same, shuffle_seed=0)
    return result.accuracy, result.auc


def dropped_quality(run, wrong, degrees):
    """Returns precision and recall of wrong labels among images farther than `degrees` from their class."""
    with open(run / "label_noise.csv") as file:
        rows = [(wrong[row["name"]], float(row["degrees"]) > degrees) for row in csv.DictReader(file)]
    is_wrong, is_dropped = np.array(rows).T
    right = np.sum(is_wrong & is_dropped)
    return right / max(1, is_dropped.sum()), right / is_wrong.sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory of TFRecords")
    parser.add_argument("pairs", type=Path, help="verification set, .bin or .npz")
    parser.add_argument("--output", type=Path, required=True, help="folder for datasets and runs")
    parser.add_argument("--share", type=float, default=0.2, help="fraction of the labels to flip")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sub-centers", type=int, default=3)
    parser.add_argument("--ignored-above", type=float, default=0.4, help="cosine threshold of the noise filter")
    parser.add_argument("--max-angle", type=float, default=75.0, help="in degrees, for clean_labels.py")
    parser.add_argument("--options", default="--recipe small", help="options of train_ms1m.py")
    arguments = parser.parse_args()
    source = data.TFRecords(arguments.data)
    variants = {
        "original labels": (),
        "flipped": (),
        f"filter at {arguments.ignored_above:g}": ("--ignored-above", arguments.ignored_above),
        f"{arguments.sub_centers} sub-centers": ("--sub-centers", arguments.sub_centers),
        "cleaned by sub-centers": (),
    }
    results, noise = {variant: [] for variant in variants}, {}
    for seed in arguments.seeds:
        folder = arguments.output / str(seed)
        wrong = write_flipped(source, arguments.share, seed, folder / "flipped")
        for number, (variant, options) in enumerate(variants.items()):
            directory = arguments.data if number == 0 else folder / ("cleaned" if number == 4 else "flipped")
            if number == 4 and not directory.exists():
                script(
                    "clean_labels.py", folder / "flipped", folder / "3", directory, "--max-angle", arguments.max_angle
                )
            results[variant].append(train(directory, folder / str(number), seed, arguments, *options))
            print(f"  seed {seed}, {variant}: {results[variant][-1]}", file=sys.stderr, flush=True)
        for degrees in sorted({60.0, 65.0, 70.0, 75.0, 80.0, arguments.max_angle}):
            noise.setdefault(degrees, []).append(dropped_quality(folder / "3", wrong, degrees))
    print(f"{arguments.share:.0%} of {len(source):,} labels flipped, seeds {arguments.seeds}; {arguments.options}\n")
    print(f"{'':24}{'accuracy':>9}{'std':>7}{'AUC':>9}{'std':>8}")
    for variant, figures in results.items():
        spread = statistics.stdev if len(figures) > 1 else lambda values: float("nan")
        accuracy, auc = zip(*figures, strict=True)
        row = f"{100 * statistics.mean(accuracy):9.2f}{100 * spread(accuracy):7.2f}{statistics.mean(auc):9.4f}"
        print(f"{variant:24}{row}{spread(auc):8.4f}")
    print(f"\n{'dropped beyond degrees':24}{'precision':>10}{'recall':>8}")
    for degrees, figures in noise.items():
        precision, recall = (statistics.mean(values) for values in zip(*figures, strict=True))
        print(f"{degrees:24g}{precision:10.3f}{recall:8.3f}")


if __name__ == "__main__":
    main()
