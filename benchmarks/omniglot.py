"""Compares losses on handwritten characters of alphabets that were not trained.

    python benchmarks/omniglot.py images_background_small1.zip images_background_small2.zip --output omniglot

Network, images, augmentation and optimizer are those of `examples/omniglot.py`. For each loss, four settings are
trained without a fifth of the characters of the first file, which are then searched. The setting with the highest mAP@R
is trained on all characters of the first file, once per seed. Only these trainings are evaluated on the alphabets of
the second file that do not occur in the first. All losses of a seed start from the same network and take the same
number of steps with batches of the same size. Triplets need several images of each character, so their batches have
four images of each of 16 characters. Minutes are the CPU time of a training, with one thread for the network.

Results are stored in runs.jsonl in the output folder. The same command continues from them.
"""

import argparse
import dataclasses
import json
import runpy
import statistics
import tempfile
import time
from pathlib import Path

import compared_losses
import keras
import numpy as np
import tensorflow as tf
from compared_losses import options
from contenders import machine

import keras_arcface as ka
from keras_arcface import data
from keras_arcface import recipes
from keras_arcface import training

# This file has the same name, so the example cannot be imported.
EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "omniglot.py"))
IMAGES_PER_CLASS = 4
# The rate is 0.1 if a setting has none.
LOSSES = {
    name: dataclasses.replace(compared_losses.LOSSES[name], choices=choices)
    for name, choices in {
        "softmax": options("learning_rate", (0.05,), (0.1,), (0.2,), (0.4,)),
        "ArcFace": (
            *options("margin scale", (0.3, 16), (0.5, 16)),
            *options("margin scale learning_rate", (0.5, 16, 0.2), (0.5, 16, 0.4)),
        ),
        "CosFace": (
            *options("margin scale", (0.2, 16), (0.35, 16)),
            *options("margin scale learning_rate", (0.35, 16, 0.2), (0.35, 16, 0.4)),
        ),
        "triplet, semi-hard": options("margin learning_rate", (0.2, 0.1), (0.5, 0.1), (0.2, 0.2), (0.2, 0.4)),
    }.items()
}


def train(loss, choice, directory, seed, epochs):
    """Trains on a dataset. Returns the embedder, the CPU seconds and the last loss."""
    info = data.load_info(directory)
    choice = dict(choice)
    rate = choice.pop("learning_rate", EXAMPLE["RECIPE"].learning_rate)
    recipe = EXAMPLE["RECIPE"].replace(epochs=epochs, learning_rate=rate, seed=seed)
    steps = recipe.total_steps(info.num_examples)
    if loss.margin_warmup:
        choice |= {"warmup_steps": steps // 2, "sample_seed": seed}
    batches = data.load_dataset(
        directory,
        batch_size=recipe.batch_size,
        training=True,
        seed=seed,
        augmentation=EXAMPLE["AUGMENTATION"],
        images_per_class=IMAGES_PER_CLASS if loss.paired else None,
        cache="decoded",
    )
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    embedder = EXAMPLE["make_embedder"]()
    model = ka.RecognitionModel(embedder, loss.head(info.num_classes, **choice))
    model.compile(recipes.make_optimizer(recipe, info.num_examples))
    begin = time.process_time()
    history = model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    return embedder, time.process_time() - begin, history.history["loss"][-1]


def figures(model, characters):
    result = EXAMPLE["search"](model, characters)
    return {"recall": 100 * result.recall[1], "map": 100 * result.map_at_r}


class Runs:
    """File with the figures of a run in each line."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "runs.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows = {json.dumps(row["run"]): row for row in map(json.loads, lines)}

    def get(self, stage, name, choice, directory, characters, seed, epochs):
        """Returns the figures of a run, which is trained unless they are stored."""
        run = [stage, name, choice, seed, epochs]
        if json.dumps(run) not in self.rows:
            embedder, seconds, loss = train(LOSSES[name], choice, directory, seed, epochs)
            found = figures(embedder, characters) if np.isfinite(loss) else {"recall": 0.0, "map": 0.0}
            row = {"run": run, **found, "minutes": seconds / 60, "loss": loss}
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
            self.rows[json.dumps(run)] = row
        return self.rows[json.dumps(run)]


def mean_and_range(values, digits=1):
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="images_background_small1.zip, or the extracted folder")
    parser.add_argument("test", type=Path, help="images_background_small2.zip, or the extracted folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("--epochs", type=float, default=EXAMPLE["RECIPE"].epochs)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    policy = training.use_precision("auto")
    runs = Runs(arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, runs, policy, Path(folder))


def compare(arguments, runs, policy, folder):
    known = EXAMPLE["open_characters"](arguments.training, folder / "training")
    unseen = EXAMPLE["other_alphabets"](EXAMPLE["open_characters"](arguments.test, folder / "test"), known)
    pixels = {"raw pixels, 105 x 105": figures(EXAMPLE["ink"], unseen)}
    tuning, held_out = data.split_identities(known, 0.2)
    held_out, unseen = (data.Resized(source, EXAMPLE["SIZE"]) for source in (held_out, unseen))
    pixels["raw pixels, 28 x 28"] = figures(EXAMPLE["ink"], unseen)
    for stage, source in {"tune": tuning, "train": known}.items():
        data.write_dataset(data.Resized(source, EXAMPLE["SIZE"]), folder / stage)
    best, tried = {}, {}
    for name in arguments.losses:
        for choice in LOSSES[name].choices:
            row = runs.get("tune", name, choice, folder / "tune", held_out, 0, arguments.epochs)
            tried.setdefault(name, []).append(row["map"])
        best[name] = LOSSES[name].choices[int(np.argmax(tried[name]))]
    trained = {name: [] for name in arguments.losses}
    for seed in arguments.seeds:
        for name in arguments.losses:
            trained[name].append(runs.get("train", name, best[name], folder / "train", unseen, seed, arguments.epochs))
    trainings = f"{len(known)} images of {known.num_classes} characters, {arguments.epochs:g} epochs, {policy}"
    searches = f"{len(unseen)} images of {unseen.num_classes} unseen characters"
    print(f"\n{machine()[1]}; {trainings}, seeds {arguments.seeds}; {searches}\n")
    print(f"{'':22}{'Recall@1':>20}{'mAP@R':>20}{'minutes':>10}  mAP@R of settings, best setting")
    for name, row in pixels.items():
        print(f"{name:22}{row['recall']:20.1f}{row['map']:20.1f}")
    for name, rows in trained.items():
        recall, average_precision = (mean_and_range([row[figure] for row in rows]) for figure in ("recall", "map"))
        minutes = statistics.mean(row["minutes"] for row in rows)
        settings = " ".join(f"{figure:.1f}" for figure in tried[name])
        print(f"{name:22}{recall:>20}{average_precision:>20}{minutes:10.1f}  {settings}  {best[name]}")


if __name__ == "__main__":
    main()
