"""Compares all losses on the same faces: verification after the same small budget, and the time of a step.

    python benchmarks/losses.py cfp_tfrecord lfw_dev.bin --output losses

This is a small version of table 2 of the ArcFace paper, with later losses added. For each loss, three settings of
margin and scale (or of weight or learning rate, for losses without them) are trained on three quarters of the people
and compared on all pairs of the others. The best setting is trained on all people, once per seed, and evaluated on the
pair set. All losses of a seed start from the same network and use the same batches, except that losses without class
centers use batches with four images of each person. Each training uses one core, and `--workers` trainings run in
parallel. `--final-epochs` and `--final-width` set a larger budget for the trainings on all people than for the tuning.

Results are stored in runs.csv and steps_*.json in the output folder. The same command continues from them.
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import functools
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from compared_losses import LOSSES
from contenders import machine
from tqdm import tqdm

import keras_arcface as ka
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import recipes
from keras_arcface import training

RECIPE = recipes.get("small", stem_strides=2, width=16, warmup=1.0)
IMAGES_PER_CLASS = 4
FAR = 1e-2


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run, identified by loss, hyperparameters, dataset and seed."""

    loss: str
    choice: int
    stage: str  # "tune" or "train"
    seed: int
    epochs: float
    width: int
    directory: str
    evaluated_on: str  # directory with held-out people, or a pair set
    output: str

    @property
    def key(self):
        choice = LOSSES[self.loss].choices[self.choice]
        return self.stage, self.loss, repr(choice), str(self.seed), f"{self.epochs:g}", str(self.width)

    @property
    def correct_pairs_file(self):
        """Path of the array that marks the correctly decided pairs."""
        choice = "_".join(f"{name}={value:g}" for name, value in LOSSES[self.loss].choices[self.choice].items())
        return Path(self.output) / f"{self.loss}_{choice}_{self.seed}_{self.epochs:g}_{self.width}.npy"


def train_and_evaluate(run):
    """Trains and evaluates a run. Returns the figures of its row in runs.csv."""
    loss = LOSSES[run.loss]
    info = data.load_info(run.directory)
    recipe = RECIPE.replace(epochs=run.epochs, width=run.width, seed=run.seed)
    batches = batches_of(run.directory, run.seed, run.epochs, loss.paired)
    begin = time.perf_counter()
    keras.utils.clear_session()
    keras.utils.set_random_seed(run.seed)
    model = make_model(loss, run.choice, recipe, info)
    for images, labels in batches:  # fit would keep the batches of all trainings in memory
        logs = model.train_on_batch(images, labels, return_dict=True)
    row = {"seconds": time.perf_counter() - begin, "mean loss": float(logs["loss"])}
    if not np.isfinite(row["mean loss"]):
        return {**row, "tar": 0.0, "auc": 0.5, "accuracy": 0.5}  # diverged
    if run.stage == "tune":
        return {**row, **evaluate_held_out(model.embedder, run.evaluated_on)}
    pairs = data.PairSet.load(run.evaluated_on)
    embeddings = evaluation.embed_pairs(model.embedder, pairs, progress=False)
    result = evaluation.verify(embeddings, pairs.same, shuffle_seed=0)
    np.save(run.correct_pairs_file, result.correct)
    return {**row, "accuracy": result.accuracy, "tar": result.roc.tar_at(FAR), "auc": result.auc}


def make_model(loss, choice, recipe, info):
    choice = dict(loss.choices[choice])
    recipe = recipe.replace(learning_rate=choice.pop("learning_rate", recipe.learning_rate))
    steps = recipe.steps_per_epoch(info.num_examples)
    backbone = ka.backbones.IResNet18(
        width=recipe.width, stem_strides=recipe.stem_strides, input_shape=(*info.image_size, 3)
    )
    embedder = ka.models.make_embedder(backbone, dim=recipe.dim, dropout=recipe.dropout, scaled=loss.scaled)
    if loss.margin_warmup:  # as in the recipe, over the first half of the training
        choice |= {"warmup_steps": round(recipe.epochs / 2 * steps), "sample_seed": recipe.seed}
    if loss.annealing:
        choice["gamma"] = loss.annealing / (recipe.epochs * steps)
    model = ka.RecognitionModel(embedder, loss.head(info.num_classes, **choice))
    model.compile(recipes.make_optimizer(recipe, info.num_examples))
    model.build((None, *info.image_size, 3))
    return model


@functools.lru_cache(maxsize=1)
def batches_of(directory, seed, epochs, paired):
    """Returns all augmented batches of a training, cached for the losses that share them."""
    steps = RECIPE.replace(epochs=epochs).total_steps(data.load_info(directory).num_examples)
    dataset = data.load_dataset(
        directory,
        batch_size=RECIPE.batch_size,
        training=True,
        seed=seed,
        augmentation=recipes.make_augmentation(RECIPE),
        images_per_class=IMAGES_PER_CLASS if paired else None,
        cache="decoded",
    )
    return list(dataset.take(steps))


def evaluate_held_out(embedder, directory):
    """Evaluates the embedder on all pairs of images of the held-out people."""
    images, labels = zip(*data.load_dataset(directory, batch_size=64), strict=True)
    images, labels = np.concatenate(images), np.concatenate(labels)
    rows = evaluation.embed_images(embedder, images, progress=False)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), 1)
    result = evaluation.Roc.from_pairs((rows @ rows.T)[first, second], labels[first] == labels[second])
    return {"tar": result.tar_at(FAR), "auc": result.auc}


def use_one_core():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    training.use_precision("auto")


def tuning_runs(arguments, tuning_set, held_out_set):
    for name in by_batches(arguments.losses):
        for choice in range(len(LOSSES[name].choices)):
            paths = str(tuning_set), str(held_out_set), str(arguments.output)
            yield Run(name, choice, "tune", 0, arguments.epochs, arguments.width, *paths)


def training_runs(arguments, recipe, best):
    for seed in arguments.seeds:
        for name in by_batches(arguments.losses):
            paths = str(arguments.data), str(arguments.pairs), str(arguments.output)
            yield Run(name, best[name], "train", seed, recipe.epochs, recipe.width, *paths)


def by_batches(names):
    """Groups losses that use the same batches, so that the batches are created once."""
    return sorted(names, key=lambda name: LOSSES[name].paired)


class Results:
    """CSV file of results, to which rows are appended."""

    FIELDS = ("stage", "loss", "choice", "seed", "epochs", "width", "tar", "auc", "accuracy", "seconds", "mean loss")

    def __init__(self, path):
        self.path, self.rows = path, {}
        if path.exists():
            with open(path) as file:
                self.rows = {tuple(row[field] for field in self.FIELDS[:6]): row for row in csv.DictReader(file)}
        else:
            path.write_text(",".join(self.FIELDS) + "\n")

    def add(self, run, figures):
        row = dict(zip(self.FIELDS[:6], run.key, strict=True)) | {name: repr(value) for name, value in figures.items()}
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.FIELDS).writerow(row)
        self.rows[run.key] = row


def execute(runs, results, pool, title):
    runs = list(runs)
    pending = {pool.submit(train_and_evaluate, run): run for run in runs if run.key not in results.rows}
    for future in tqdm(concurrent.futures.as_completed(pending), title, total=len(pending), disable=not pending):
        results.add(pending[future], future.result())
    return {run: results.rows[run.key] for run in runs}


def best_choices(tuned):
    best = {}
    for run, row in tuned.items():
        if run.loss not in best or float(row["tar"]) > best[run.loss][0]:
            best[run.loss] = float(row["tar"]), run.choice
    return {name: choice for name, (_, choice) in best.items()}


def time_steps(arguments, recipe, info, best, rounds=5, steps=10):
    """Returns the milliseconds of a training step on all cores, per loss and round. The losses take turns."""
    path = arguments.output / f"steps_{recipe.width}.json"
    if path.exists() and json.loads(path.read_text()).keys() >= set(arguments.losses):
        return json.loads(path.read_text())
    training.use_precision("auto")
    clocks = {}
    for name in tqdm(arguments.losses, "steps"):
        model = make_model(LOSSES[name], best[name], recipe, info)
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (recipe.batch_size, *info.image_size, 3), dtype=np.uint8)
        labels = np.repeat(np.arange(recipe.batch_size // IMAGES_PER_CLASS), IMAGES_PER_CLASS)
        dataset = tf.data.Dataset.from_tensors((images, labels)).repeat()
        clocks[name] = functools.partial(seconds_of_steps, model, dataset)
        clocks[name](2)
    milliseconds = {name: [] for name in clocks}
    for _ in tqdm(range(rounds), "rounds"):
        for name, clock in clocks.items():
            milliseconds[name].append(1000 * clock(steps) / steps)
    path.write_text(json.dumps(milliseconds))
    return milliseconds


def seconds_of_steps(model, dataset, steps):
    moments = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: moments.append(time.perf_counter()),
        on_epoch_end=lambda *_: moments.append(time.perf_counter()),
    )
    model.fit(dataset, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
    return moments[1] - moments[0]


def print_table(arguments, tuned, trained, milliseconds, best):
    figures, correct_pairs, tars = ({name: [] for name in arguments.losses} for _ in range(3))
    for run, row in trained.items():
        figures[run.loss].append((100 * float(row["accuracy"]), 100 * float(row["tar"]), float(row["auc"])))
        correct_pairs[run.loss].append(np.load(run.correct_pairs_file) if run.correct_pairs_file.exists() else np.nan)
    for run, row in tuned.items():
        tars[run.loss].append(100 * float(row["tar"]))
    columns = f"{'LFW':>7}{'std':>6}{'vs. ArcFace':>23}{'TAR':>7}{'std':>6}{'AUC':>8}{'std':>7}"
    print(f"{'':22}{columns}{'TAR of settings':>20}{'ms':>6}{'ratio':>7}  table 2")
    order = sorted(figures, key=lambda name: -statistics.mean(row[0] for row in figures[name]))
    for name in order:
        accuracy, tar, auc = zip(*figures[name], strict=True)
        difference_to_arcface = ""
        if "ArcFace" in figures and name != "ArcFace":
            difference_to_arcface = difference(correct_pairs[name], correct_pairs["ArcFace"])
        text = f"{name:22}{mean_and_spread(accuracy, 7, 1)}{difference_to_arcface:>23}"
        text += mean_and_spread(tar, 7, 1) + mean_and_spread(auc, 8, 3)
        text += " ".join(f"{tar:.1f}" for tar in tars[name]).rjust(20)
        text += f"{statistics.median(milliseconds[name]):6.0f}"
        if "ArcFace" in milliseconds:
            ratios = [own / other for own, other in zip(milliseconds[name], milliseconds["ArcFace"], strict=True)]
            text += f"{statistics.median(ratios):7.2f}  "
        print(text + " ".join(f"{accuracy:.2f}" for accuracy in LOSSES[name].published))
    print("\nBest settings:")
    for name in order:
        print(f"{name:22}", LOSSES[name].choices[best[name]])


def mean_and_spread(values, width, digits):
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):{width}.{digits}f}{spread:{width - 1}.{digits}f}"


def difference(ours, theirs, draws=10_000):
    """Returns the difference of accuracies, mean over seeds, with a 95% bootstrap interval over pairs."""
    by_pair = 100 * (np.mean(ours, axis=0) - np.mean(theirs, axis=0))
    if np.ndim(by_pair) == 0:
        return "nan"
    counts = np.random.default_rng(0).multinomial(len(by_pair), np.full(len(by_pair), 1 / len(by_pair)), size=draws)
    low, high = np.quantile(counts @ by_pair / len(by_pair), [0.025, 0.975])
    return f"{np.mean(by_pair):+.1f} ({low:+.1f}..{high:+.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory of TFRecords")
    parser.add_argument("pairs", type=Path, help="verification set of other people, .bin or .npz")
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--width", type=int, default=RECIPE.width, help="width of the network")
    parser.add_argument("--final-epochs", type=float, help="epochs of the trainings on all people; default: --epochs")
    parser.add_argument("--final-width", type=int, help="width in the trainings on all people; default: --width")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of parallel trainings")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tuning_set, held_out_set = (arguments.output / name for name in ("tuning", "held_out"))
    if not (arguments.output / "split").exists():
        for source, directory in zip(
            data.split_identities(data.TFRecords(arguments.data), 0.25), (tuning_set, held_out_set), strict=True
        ):
            data.write_dataset(source, directory)
        (arguments.output / "split").touch()
    results = Results(arguments.output / "runs.csv")
    final = dataclasses.replace(
        RECIPE,
        epochs=arguments.final_epochs or arguments.epochs,
        width=arguments.final_width or arguments.width,
    )
    with concurrent.futures.ProcessPoolExecutor(
        arguments.workers, multiprocessing.get_context("spawn"), use_one_core
    ) as pool:
        tuned = execute(tuning_runs(arguments, tuning_set, held_out_set), results, pool, "tuning")
        best = best_choices(tuned)
        trained = execute(training_runs(arguments, final, best), results, pool, "training")
    milliseconds = time_steps(arguments, final, data.load_info(arguments.data), best)
    trainings = f"{final.epochs:g} epochs, width {final.width}, seeds {arguments.seeds}"
    print(f"{machine()[1]}; {trainings}, TAR at FAR {FAR:g}\n")
    print_table(arguments, tuned, trained, milliseconds, best)


if __name__ == "__main__":
    main()
