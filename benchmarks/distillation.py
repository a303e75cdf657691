"""Trains a small student with and without a teacher on the same number of images, and compares them on unseen people.

    python benchmarks/distillation.py cfp_tfrecord lfw_dev.bin --output out --teacher sface.onnx --variant morphs
    python benchmarks/distillation.py cfp_tfrecord lfw_dev.bin --output out --variant "no teacher" --seeds 0 1 2
    python benchmarks/distillation.py cfp_tfrecord lfw_dev.bin --output out --table

Each training appends a line to OUTPUT/results.jsonl, and a finished one is skipped. A variant is the set of images that
the teacher labels, and the loss:

- "no teacher": the augmentation and loss of the recipe `small`.
- "images": the images of the dataset and their mirror images.
- "augmented": several versions of each image, rotated, zoomed, shifted, with filled borders and other colors.
- "morphs": each image of this set is combined from two images of the dataset. A smooth random mask takes some parts of
  the face from the first and some from the second, which gives faces of people that do not exist. Only a teacher can
  label them.
- "slimmed, no teacher", "slimmed": as "no teacher" and "morphs", but the student starts with weights made from those of
  the teacher (`benchmarks/slimmed.py`).

With `--student slim`, the student is a MobileNetV1 with fewer channels than SFace. If it starts from SFace, the file
`--wide`, the stages before `--first-trained` stay unchanged.

The images of a set, and the embeddings of the teacher for them and their mirror images, are computed once for all
trainings, in OUTPUT. `--teacher` is a `.keras`, `.onnx` or OpenVINO file or a SavedModel that takes RGB in 0..255.
"""

import argparse
import functools
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import slimmed
import tensorflow as tf

from keras_arcface import backbones
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import models
from keras_arcface import recipes
from keras_arcface import serving
from keras_arcface import training
from keras_arcface.data import augment

# The channels of a student of 1.9 million weights, and the optimizer if it starts with weights from the teacher.
SLIM = ((2,), (4, 4), (8, 8), (12,) * 6, (16, 16, 2))
FINE_TUNING = {"optimizer": "AdamW", "learning_rate": 5e-4, "weight_decay": 0.01}
# The loss and the optimizer of a variant, as settings of a recipe, and its set of images.
VARIANTS = {
    "no teacher": ({}, "images"),
    "images": ({"head_weight": 0.0}, "images"),
    "augmented": ({"head_weight": 0.0}, "augmented"),
    "augmented and ArcFace": ({"distillation": 16.0}, "augmented"),
    "augmented, fixed centers": ({"distillation": 16.0, "teacher_centers": "fixed"}, "augmented"),
    "morphs": ({"head_weight": 0.0}, "morphs"),
    "slimmed, no teacher": ({**FINE_TUNING, "distillation": 0.0, "augmentation": "small"}, "images"),
    "slimmed": ({**FINE_TUNING, "head_weight": 0.0}, "morphs"),
}
DISTILLATION = {
    "distillation": 1.0,
    "optimizer": "AdamW",
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "no_decay": ["gamma", "beta", "alpha"],
    "augmentation": "flip",
}
# The options of a training that the table names where they are not the default.
OPTIONS = ("first_trained", "images", "copies", "batch_size", "augmentation", "settings", "dim")
# Changes of the student that the teacher does not see.
AUGMENTATIONS = {
    "flip": augment.flip,
    "erase": augment.chain(augment.flip, functools.partial(augment.erase, probability=0.3)),
    "noisy": augment.chain(
        augment.flip,
        functools.partial(augment.erase, probability=0.25),
        functools.partial(augment.low_resolution, probability=0.1, scale=(0.4, 1.0)),
        functools.partial(augment.blur, probability=0.1),
    ),
}


class ImageSet(data.Source):
    """Augmented versions or morphs of the images of a source, which depend only on the index and the seed."""

    def __init__(self, source, kind, size, seed=0):
        self.kind, self.seed, self.num_classes = kind, seed, source.num_classes
        self._size, self._source = size, source
        encoded = [np.frombuffer(source[index].image, np.uint8) for index in range(len(source))]
        pixels = np.stack([cv2.imdecode(image, cv2.IMREAD_COLOR) for image in encoded])
        # A fifth of the images keep their black borders.
        self._pixels = [pixels, *(fill_borders(pixels, [seed, number]) for number in range(4))]

    @functools.cached_property
    def labels(self):
        return np.array([self._source.labels[index % len(self._source)] for index in range(self._size)])

    def __len__(self):
        return self._size

    def __str__(self):
        return f"{self._source}, {self.kind}, seed {self.seed}"

    def fingerprint(self):
        return f"{self._source.fingerprint()} {self.kind} {self.seed} {self._size}"

    def __getitem__(self, index):
        generator = np.random.default_rng([self.seed, index])
        pixels = self._changed(index % len(self._source), generator)
        if self.kind == "morphs":
            other = self._changed(int(generator.integers(len(self._source))), generator)
            mask = smooth_mask(generator, pixels.shape[:2])
            pixels = mask * pixels + (1 - mask) * other
        pixels = np.clip(recolored(pixels, generator), 0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        return data.Record(encoded, int(self.labels[index]), f"{self.kind}/{index}")

    def _changed(self, index, generator):
        """Returns an image that is randomly rotated, zoomed, shifted and mirrored, mostly without black borders."""
        pixels = self._pixels[generator.integers(len(self._pixels))][index]
        if generator.random() < 0.5:
            pixels = pixels[:, ::-1]
        height, width = pixels.shape[:2]
        angle, zoom = generator.uniform(-12, 12), np.exp(generator.uniform(-0.12, 0.12))
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, zoom)
        matrix[:, 2] += generator.uniform(-0.05, 0.05, 2) * (width, height)
        return cv2.warpAffine(pixels, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def fill_borders(pixels, seed):
    parts = [
        augment.fill_border(pixels[start : start + 256], [seed[0], 1000 * seed[1] + start], probability=1.0).numpy()
        for start in range(0, len(pixels), 256)
    ]
    return np.concatenate(parts)


def smooth_mask(generator, size):
    """Returns a random smooth mask `(height, width, 1)` in 0..1, from an even mixture to parts with clear borders."""
    cells = int(generator.integers(1, 5))
    field = generator.normal(size=(cells, cells)).astype(np.float32)
    field = cv2.resize(field, size[::-1], interpolation=cv2.INTER_CUBIC)
    field = generator.uniform(0.5, 6) * field + generator.normal(0, 0.7)
    return 1 / (1 + np.exp(-field[..., None]))


def recolored(pixels, generator):
    """Changes brightness, contrast, saturation and the gains of the channels, or removes the colors."""
    gray = pixels @ np.array([0.114, 0.587, 0.299], np.float32)
    saturation = 0.0 if generator.random() < 0.1 else generator.uniform(0.5, 1.4)
    pixels = gray[..., None] + saturation * (pixels - gray[..., None])
    pixels = (pixels - 128) * generator.uniform(0.7, 1.3) + 128 + generator.uniform(-30, 30)
    return pixels * generator.uniform(0.92, 1.08, 3)


def prepare(arguments, kind):
    """Writes the images of a variant as TFRecords and the embeddings of the teacher, if necessary.

    Returns:
        The directory, the `TeacherEmbeddings` (None without a teacher), and the seconds that the teacher takes.
    """
    source = data.TFRecords(arguments.data)
    directory = arguments.data
    if kind != "images":
        size = arguments.copies * len(source)
        directory = arguments.output / f"{kind}_{arguments.copies}"
        data.write_dataset(ImageSet(source, kind, size), directory, processes=arguments.processes)
    if arguments.teacher is None:
        return directory, None, 0.0
    name = hashlib.sha256(arguments.teacher.read_bytes()).hexdigest() if arguments.teacher.is_file() else "directory"
    folder = arguments.output / f"teacher_{directory.name}"
    seconds_path = folder / "seconds.json"
    start = time.perf_counter()
    stored = data.write_teacher_embeddings(directory, serving.load_embedder(arguments.teacher), name, folder)
    if not seconds_path.exists():
        seconds_path.write_text(json.dumps(time.perf_counter() - start))
    return directory, stored, json.loads(seconds_path.read_text())


def recipe_of(arguments, settings, seed):
    common = {"dim": arguments.dim}
    if arguments.student != "slim":
        backbone, width, strides = arguments.student.split(":")
        common |= {"backbone": backbone, "width": int(width), "stem_strides": int(strides)}
    common |= {"warmup": 0.05, "warmup_margin": 0.4, "epochs": 1.0, "batch_size": arguments.batch_size, "seed": seed}
    if settings:
        settings = {**DISTILLATION, **settings}
    chosen = json.loads(arguments.settings)
    return recipes.get("small", **{**common, **settings, **chosen})


def train(arguments, recipe, directory, stored, output, is_slimmed):
    """Trains on `arguments.images` images, and returns the embedder and the seconds that this takes."""
    start = time.perf_counter()
    info = data.load_info(directory)
    keras.utils.set_random_seed(recipe.seed)
    training.use_precision(arguments.precision)
    # One epoch of the recipe is the whole training.
    stored = stored if recipe.needs_teacher else None
    if arguments.student != "slim":
        model = recipes.build(recipe, info.num_classes, arguments.images, info.image_size, None, stored)
    else:
        embedder = make_student(arguments, directory, is_slimmed)
        head = recipes.make_head(recipe, info.num_classes, arguments.images, stored.dim if stored else None)
        model = models.RecognitionModel(embedder, head)
        model.compile(recipes.make_optimizer(recipe, arguments.images))
    augmentation = recipes.make_augmentation(recipe)
    if stored is not None and arguments.augmentation:
        augmentation = AUGMENTATIONS[arguments.augmentation]
    dataset = data.load_dataset(
        directory,
        recipe.batch_size,
        training=True,
        seed=recipe.seed,
        augmentation=augmentation,
        cache="encoded",
        teacher=stored,
    )
    steps = recipe.total_steps(arguments.images)
    every = max(1, steps // 20)
    output.mkdir(parents=True, exist_ok=True)
    model.fit(
        dataset,
        steps_per_epoch=steps,
        verbose=0,
        shuffle=False,
        callbacks=[
            training.StopOnNaN(recipe.seed),
            training.TrainingLog(output, recipe.batch_size, every),
            training.ProgressBar(steps, recipe.batch_size),
        ],
    )
    seconds = time.perf_counter() - start
    model.embedder.save(output / "embedder.keras")
    return model.embedder, seconds


def make_student(arguments, directory, is_slimmed):
    """Returns the student of `--student slim`."""
    if not is_slimmed:
        return models.make_embedder(backbones.MobileNetV1(stages=SLIM), dim=arguments.dim, dropout=0.0)
    source = data.TFRecords(directory)
    images = np.stack([tf.io.decode_jpeg(source[index].image).numpy() for index in range(256)])
    student = slimmed.slim(keras.saving.load_model(arguments.wide), images, SLIM)
    training.freeze_below(student, arguments.first_trained)
    return student


def evaluate(embedder, pairs):
    result = evaluation.verify(evaluation.embed_pairs(embedder, pairs, progress=False), pairs.same, shuffle_seed=0)
    intervals = result.intervals()
    return {
        "accuracy": result.accuracy,
        "accuracy_interval": intervals["accuracy"],
        "auc": result.auc,
        "auc_interval": intervals["auc"],
        "correct": "".join("01"[correct] for correct in result.correct.tolist()),
    }


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def difference_interval(ours, baseline, samples=10_000):
    """Returns the mean difference of the accuracy to the baseline and its 95% interval, over seeds and pairs."""
    first, second = (np.array([list(map(int, row["correct"])) for row in rows], float) for rows in (ours, baseline))
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(samples):
        pairs = generator.integers(first.shape[1], size=first.shape[1])
        rows = generator.integers(len(first), size=len(first)), generator.integers(len(second), size=len(second))
        differences.append(first[rows[0]][:, pairs].mean() - second[rows[1]][:, pairs].mean())
    return first.mean() - second.mean(), *np.quantile(differences, [0.025, 0.975])


def print_table(results):
    groups = {}
    for row in results:
        groups.setdefault((row["variant"], row["student"], row["options"]), []).append(row)
    baselines = {key[1]: rows for key, rows in groups.items() if key[0] == "no teacher"}
    print("| variant | student | weights | images | minutes | + teacher | seeds | accuracy | AUC | vs. no teacher |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (variant, student, options), rows in groups.items():
        accuracies = " ".join(f"{100 * row['accuracy']:.1f}" for row in rows)
        low, high = (100 * statistics.mean(row["accuracy_interval"][end] for row in rows) for end in (0, 1))
        mean = 100 * statistics.mean(row["accuracy"] for row in rows)
        accuracy = f"{mean:.1f} ({low:.1f} to {high:.1f}): {accuracies}"
        ends = (statistics.mean(row["auc_interval"][end] for row in rows) for end in (0, 1))
        auc = "{:.4f} ({:.4f} to {:.4f})".format(statistics.mean(row["auc"] for row in rows), *ends)
        versus = ""
        if student in baselines and variant != "no teacher":
            gain, low, high = (100 * value for value in difference_interval(rows, baselines[student]))
            versus = f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
        minutes = statistics.mean(row["seconds"] for row in rows) / 60
        teacher = rows[0]["teacher_seconds"] / 60
        name = f"{variant} {options}".strip()
        print(
            f"| {name} | {student} | {rows[0]['weights']:,} | {rows[0]['images']:,} | {minutes:.0f} | {teacher:.0f} "
            f"| {len(rows)} | {accuracy} | {auc} | {versus} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory of TFRecords")
    parser.add_argument("pairs", type=Path, help="verification set, .bin or .npz")
    parser.add_argument("--output", type=Path, required=True, help="folder for image sets, runs and results.jsonl")
    parser.add_argument("--teacher", type=Path, help="file of the teacher")
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--student", default="IResNet18:24:2", help="backbone:width:stem_strides, or slim")
    parser.add_argument("--wide", type=Path, help="SFace as a .keras file, for slimmed students")
    parser.add_argument(
        "--first-trained", default="stage4", help="stages of a slimmed student before it stay unchanged"
    )
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--images", type=int, default=300_000, help="number of images of a training")
    parser.add_argument("--copies", type=int, default=20, help="size of an image set, in multiples of the dataset")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--augmentation", choices=AUGMENTATIONS, help="of the student only, besides the image set")
    parser.add_argument("--settings", default="{}", help="further settings of the recipe, as JSON")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--processes", type=int, default=1, help="processes that write an image set")
    parser.add_argument("--table", action="store_true", help="only print the results as a Markdown table")
    arguments = parser.parse_args()
    path = arguments.output / "results.jsonl"
    if arguments.table:
        print_table(read(path))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    pairs = data.PairSet.load(arguments.pairs)
    for variant in arguments.variant:
        settings, kind = VARIANTS[variant]
        needs_teacher = bool(settings) and settings.get("distillation") != 0
        if needs_teacher and arguments.teacher is None:
            parser.error(f"the variant {variant} requires --teacher")
        if variant.startswith("slimmed") and (arguments.student != "slim" or arguments.wide is None):
            parser.error(f"the variant {variant} requires --student slim and --wide")
        directory, stored, teacher_seconds = (arguments.data, None, 0.0)
        if needs_teacher:
            directory, stored, teacher_seconds = prepare(arguments, kind)
        options = " ".join(
            f"{name}={getattr(arguments, name)}"
            for name in OPTIONS
            if getattr(arguments, name) != parser.get_default(name)
        )
        for seed in arguments.seeds:
            row = {"variant": variant, "student": arguments.student, "options": options, "seed": seed}
            if any(row.items() <= done.items() for done in read(path)):
                continue
            print(row, file=sys.stderr, flush=True)
            output = arguments.output / "runs" / hashlib.sha256(json.dumps(row).encode()).hexdigest()[:12]
            recipe = recipe_of(arguments, settings, seed)
            embedder, seconds = train(arguments, recipe, directory, stored, output, variant.startswith("slimmed"))
            row |= {"images": arguments.images, "seconds": seconds, "teacher_seconds": teacher_seconds}
            row |= {"weights": embedder.count_params(), "run": output.name, **evaluate(embedder, pairs)}
            with open(path, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['accuracy']:.4f} {row['auc']:.4f} {seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
