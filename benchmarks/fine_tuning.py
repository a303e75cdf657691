"""Fine-tunes a published network on some people of a dataset, and compares it on the other people and on other pairs.

    python benchmarks/fine_tuning.py cfp324/train.rec lfw_dev.bin --output out --stage neck --seeds 0 1 2
    python benchmarks/fine_tuning.py cfp324/train.rec lfw_dev.bin --output out --stage stage5 --distillation 64
    python benchmarks/fine_tuning.py cfp324/train.rec lfw_dev.bin --output out --table

A seed chooses the people that are held out, the batches and the first centers. Each training appends a line to
OUTPUT/results.jsonl, and a finished one is skipped. The row "before" of a seed is the network without training.

Stages before `--stage` are frozen. Their output for each image is computed once, by OpenVINO, and kept in a folder of
the network in OUTPUT as float16, so that a step only computes the stages that are trained. Use another OUTPUT for other
images. `stem` trains all stages. There is no augmentation, and no mirror image is added in the evaluation.

Figures of the people held out: `accuracy` of all genuine and as many impostor pairs, the threshold cross-validated;
`AUC` and `TAR` of all pairs of their images; `rank 1`, the share of images whose person is found among the first images
of all of them. The pairs of the verification set have a random order of the folds with a fixed seed. Intervals are 95%
intervals of `VerificationResult.intervals`, the mean over the seeds. They are too narrow, because pairs share people.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import openvino

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import pretrained
from keras_arcface import training
from keras_arcface.layers import WithDistillation
from keras_arcface.layers import set_teacher_centers

FAR = 1e-3


def split(embedder, stage):
    """Splits an embedder before a stage.

    Returns:
        `(front, back)`: models from images to the input of the stage, or None for the stem, and from there to
        embeddings.
    """
    if stage == "stem":
        return None, embedder
    backbone = next(layer for layer in embedder.layers if isinstance(layer, keras.Model))
    position = embedder.layers.index(backbone)
    first = [layer for layer in backbone.layers if layer.name.split("_")[0] == stage]
    cut = first[0].input if first else backbone.output
    x = images = keras.Input(embedder.input_shape[1:])
    for layer in [*embedder.layers[1:position], keras.Model(backbone.input, cut)]:
        x = layer(x)
    y = features = keras.Input(cut.shape[1:])
    for layer in [*([keras.Model(cut, backbone.output)] if first else []), *embedder.layers[position + 1 :]]:
        y = layer(y)
    return keras.Model(images, x), keras.Model(features, y)


def compiled(model):
    """Returns a function that computes a model by OpenVINO."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        network = openvino.compile_model(openvino.convert_model(folder), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda images: network(np.asarray(images, np.float32))[0]


def in_batches(function, array, size=64):
    return np.concatenate([function(array[start : start + size]) for start in range(0, len(array), size)])


class Images:
    """Images of a source and of a pair set, what the frozen stages compute of them, and the embeddings before."""

    def __init__(self, source, pairs, embedder, stage, folder):
        encoded = dict.fromkeys(pairs.images)
        row_of = {image: len(source) + row for row, image in enumerate(encoded)}
        self.labels, self.same = source.labels, pairs.same
        self.pairs = np.array([row_of[image] for image in pairs.images]).reshape(-1, 2)
        self.front, self.back = split(embedder, stage)
        paths = [folder / f"{stage}.npy", folder / "before.npy"]
        if self.front is None or not paths[0].exists():
            self.values = np.stack([decode(image) for image in [*(record.image for record in source), *encoded]])
        if self.front is not None:
            if not paths[0].exists():
                network = compiled(self.front)
                np.save(paths[0], in_batches(lambda batch: network(batch).astype(np.float16), self.values))
            self.values = np.load(paths[0], mmap_mode="r")
        if not paths[1].exists():
            np.save(paths[1], embed(self, np.arange(len(self.values))))
        self.before = np.load(paths[1])


def decode(image):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def embed(images, rows):
    network = compiled(images.back) if images.front is None else images.back.predict_on_batch
    return in_batches(network, images.values[rows])


def train(arguments, images, rows, labels, seed):
    """Trains the stages from `arguments.stage` on, and returns the seconds that this takes."""
    keras.utils.set_random_seed(seed)
    before = images.before[rows] / np.linalg.norm(images.before[rows], axis=1, keepdims=True)
    training.freeze_below(images.back, arguments.stage, batch_norm=arguments.batch_norm)
    head = ArcFace(int(labels.max()) + 1, margin=arguments.margin)
    if arguments.distillation:
        head = WithDistillation(head, weight=arguments.distillation)
    if arguments.centers == "means":
        set_teacher_centers(head, np.stack([before[labels == label].mean(axis=0) for label in range(labels.max() + 1)]))
    model = RecognitionModel(images.back, head)
    schedule = training.CosineSchedule(arguments.learning_rate, total=arguments.steps, warmup=arguments.steps // 10)
    model.compile(keras.optimizers.Adam(schedule))
    order = np.random.default_rng(seed)
    start = time.perf_counter()
    for _ in range(arguments.steps):
        batch = np.sort(order.choice(len(rows), arguments.batch_size, replace=False))
        values, targets = images.values[rows[batch]], labels[batch]
        loss = model.train_on_batch(values, (targets, before[batch]) if arguments.distillation else targets)
    print(f"loss of the last step: {np.ravel(loss)[0]:.2f}", file=sys.stderr)
    return time.perf_counter() - start


def figures(result, *names):
    values = {"accuracy": result.accuracy, "auc": result.auc, "tar": result.tar[FAR]}
    intervals = result.intervals()
    intervals["tar"] = intervals["tar"][FAR]
    return {name: [values[name], *intervals[name]] for name in names}


def evaluate(images, held_out):
    """Returns the figures of the people held out, and of the pairs of the verification set."""
    lfw = np.unique(images.pairs)
    embeddings = embed(images, np.concatenate([held_out, lfw]))
    people, labels = embeddings[: len(held_out)], images.labels[held_out]
    pairs = np.searchsorted(lfw, images.pairs)
    result = evaluation.verify(embeddings[len(held_out) :], images.same, pairs=pairs, shuffle_seed=0)
    row = {"pairs": figures(result, "accuracy", "auc")}
    pairs = np.stack(np.triu_indices(len(labels), 1), axis=1)
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    all_pairs = evaluation.verify(people, same, pairs=pairs, shuffle_seed=0)
    impostors = np.random.default_rng(0).choice(np.flatnonzero(~same), same.sum(), replace=False)
    chosen = np.sort(np.concatenate([np.flatnonzero(same), impostors]))
    balanced = evaluation.verify(people, same[chosen], pairs=pairs[chosen], shuffle_seed=0)
    row["held_out"] = figures(balanced, "accuracy") | figures(all_pairs, "auc", "tar")
    first = np.unique(labels, return_index=True)[1]
    probes = np.setdiff1d(np.arange(len(labels)), first)
    found = evaluation.identify(people[probes], labels[probes], people[first], labels[first], progress=False)
    return row | {"rank_1": found.rank(1)}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def print_table(results):
    groups = {}
    for row in results:
        groups.setdefault(row["options"], {})[row["seed"]] = row
    before = groups["before"]
    columns = {
        "held out: accuracy": lambda row: row["held_out"]["accuracy"],
        "AUC": lambda row: row["held_out"]["auc"],
        f"TAR at FAR {FAR:g}": lambda row: row["held_out"]["tar"],
        "rank 1": lambda row: [row["rank_1"]],
        "pairs: accuracy": lambda row: row["pairs"]["accuracy"],
        "pairs: AUC": lambda row: row["pairs"]["auc"],
    }
    print("| training | seeds | seconds |", " | ".join(columns), "|")
    print("|---|---|---|" + "---|" * len(columns))
    for options, rows in groups.items():
        cells = []
        for get in columns.values():
            means = [100 * statistics.mean(values) for values in zip(*map(get, rows.values()), strict=True)]
            text = f"{means[0]:.2f}" + (f" ({means[1]:.2f} to {means[2]:.2f})" if len(means) == 3 else "")
            if options != "before":
                changes = [100 * (get(row)[0] - get(before[seed])[0]) for seed, row in rows.items()]
                text += ": " + ", ".join(f"{change:+.2f}" for change in changes)
            cells.append(text)
        seconds = statistics.mean(row["seconds"] for row in rows.values())
        print(f"| {options} | {' '.join(map(str, rows))} | {seconds:.0f} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset: .rec file, directory of TFRecords, folder of images")
    parser.add_argument("pairs", type=Path, help="verification set, .bin or .npz")
    parser.add_argument("--output", type=Path, required=True, help="folder for features and results.jsonl")
    parser.add_argument("--network", default="sface", help="name or path of a network for pretrained.load")
    parser.add_argument("--stage", default="neck", help="first stage that is trained")
    parser.add_argument("--steps", type=int, default=120, help="0: only evaluate the network before the training")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--margin", type=float, default=0.5)
    parser.add_argument("--batch-norm", action="store_true", help="also train BatchNorm layers")
    parser.add_argument("--distillation", type=float, default=0.0, help="weight of the distance to the old embeddings")
    parser.add_argument("--centers", choices=["means", "random"], default="means", help="first centers of the classes")
    parser.add_argument("--held-out", type=float, default=80 / 324, help="share of the people that are held out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--accept-license", action="store_true", help="accept a license without commercial use")
    parser.add_argument("--table", action="store_true", help="only print the results as a Markdown table")
    arguments = parser.parse_args()
    path = arguments.output / "results.jsonl"
    if arguments.table:
        print_table(read(path))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    names = ("network", "steps", "batch_size", "learning_rate", "margin", "batch_norm", "distillation", "centers")
    chosen = [name for name in names if getattr(arguments, name) != parser.get_default(name)]
    options = " ".join([arguments.stage, *(f"{name}={getattr(arguments, name)}" for name in chosen)])
    options = options if arguments.steps else "before"
    rows = [{"options": options, "seed": seed} for seed in arguments.seeds]
    rows = [row for row in rows if not any(row.items() <= done.items() for done in read(path))]
    if not rows:
        return
    source = data.open_source(arguments.data)
    embedder = pretrained.load(arguments.network, arguments.accept_license)
    weights = embedder.get_weights()
    folder = arguments.output / Path(arguments.network).stem
    folder.mkdir(exist_ok=True)
    images = Images(source, data.PairSet.load(arguments.pairs), embedder, arguments.stage, folder)
    for row in rows:
        embedder.set_weights(weights)
        parts = data.split_identities(source, arguments.held_out, row["seed"])
        train_rows, held_out = (np.flatnonzero(np.isin(source.labels, part.source_labels)) for part in parts)
        labels = np.searchsorted(parts[0].source_labels, source.labels[train_rows])
        seconds = train(arguments, images, train_rows, labels, row["seed"]) if arguments.steps else 0.0
        row |= {"seconds": seconds, **evaluate(images, held_out)}
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
