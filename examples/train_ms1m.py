"""Trains a face embedder with ArcFace, from TFRecords to a served model.

Without arguments it is a demonstration on the ORL faces, from end to end in a few minutes on two CPU cores: people 1
to 30 are written as TFRecords and trained on, people 31 to 40, never seen, are verified.

    python examples/train_ms1m.py

With `--data` it trains on TFRecords of your own (see make_tfrecords.py), on every GPU of the machine, by a recipe of
recipes.py, any choice of which is an option here:

    python examples/train_ms1m.py --data ms1m_tfrecord --recipe ms1mv2_r100 --verify lfw.bin cfp_fp.bin --output runs/1

The same command again goes on where a run was stopped (Ctrl-C does so after a step) or killed. A run leaves in its
folder: embedder.keras, steps.csv and verification.csv, event files for TensorBoard, curves.png, checkpoints/,
verification.png, and saved_model/1, a version as TensorFlow Serving wants it. With a verification set, the SavedModel
is what the printed figures describe: it adds the mirror image, and has the thresholds that the set gives.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import logging
import math
import os
import shlex
import sys
import tempfile
from pathlib import Path

import cv2
import keras
import numpy as np
import orl_faces
import recipes
import tensorflow as tf
from recipes import Recipe

from keras_arcface import RecognitionModel
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving
from keras_arcface import training
from keras_arcface.data import images as encoded_images
from keras_arcface.evaluation import tables

PICTURES = importlib.util.find_spec("matplotlib") is not None


def main():
    arguments, recipe = parse_arguments()
    if arguments.strategy == "jax" and keras.backend.backend() != "jax":
        # Keras has its backend since it was imported: begin again with the other one.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "KERAS_BACKEND": "jax"})
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        run(arguments, recipe)
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        reason = str(stopped) or "Stopped by Ctrl-C"
        print(f"\n{reason}. The same command goes on: {command(arguments)}", file=sys.stderr)
        sys.exit(130)


def command(arguments) -> str:
    """The command of this run, with the folder that it writes to."""
    is_given = any(argument.partition("=")[0] == "--output" for argument in sys.argv)
    return shlex.join(["python", *sys.argv, *([] if is_given else ["--output", str(arguments.output)])])


def run(arguments, recipe: Recipe):
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    sets = {path.stem: data.PairSet.load(path) for path in arguments.verify}
    directory = arguments.data
    if directory is None:
        directory = output / "tfrecords"
        data.write_dataset(orl_faces.OrlFaces(range(1, 31)), directory, alignment="none")
        sets = sets or {"ORL": orl_faces.verification_pairs(range(31, 41))}
    if arguments.replay is not None:
        return replay(recipe, directory, output, arguments.replay, arguments.cache)

    precision = training.use_precision(arguments.precision)
    with training.placed(arguments.strategy):
        model = train(recipe, directory, output, sets, precision, arguments)

    written = [output / "embedder.keras"]
    model.embedder.save(written[0])
    if recipe.sub_centers > 1:  # what clean_labels.py wants
        written.append(output / "centers.npy")
        np.save(written[-1], np.array(model.head.centers))
    if PICTURES:
        written.append(training.plot_training(output))
    rocs = []
    for name, pairs in sets.items():
        results = verify(name, model.embedder, pairs, recipe.head, arguments.shuffle_seed)
        rocs.append(results[recipe.head].roc)
        if PICTURES:
            picture = output / ("verification.png" if len(sets) == 1 else f"verification_{name}.png")
            shown = {row: results[row] for row in (recipe.head, "raw pixels")}
            written.append(evaluation.plot_verification(shown, picture))
    if keras.backend.backend() == "tensorflow":
        written.append(export(model.embedder, output, rocs, data.load_info(directory).alignment))
    print("\nWritten:", *written, sep="\n  ")


def check(embedder: keras.Model, info: data.DatasetInfo, output: Path, sets: dict, shuffle_seed) -> None:
    """Finds before the training what would fail after it."""
    with tempfile.TemporaryFile(dir=output):
        pass  # or it is told now that nothing can be written
    for name, pairs in sets.items():
        where = f"image 0 of {name}"
        size = encoded_images.size_of(encoded_images.to_jpeg_or_png(pairs.images[0], where), where)
        if size != info.image_size:
            raise ValueError(
                f"--verify {name}: expected images of {info.image_size[0]} x {info.image_size[1]} (height x width), as "
                f"those of the training. Received: {size[0]} x {size[1]}"
            )
        any_embeddings = np.random.default_rng(0).normal(size=(2 * len(pairs), 2))
        evaluation.verify(any_embeddings, pairs.same, shuffle_seed=shuffle_seed)  # whether there are folds enough
    if keras.backend.backend() == "tensorflow":
        serving.check_exportable(embedder, serving.next_version(output / "saved_model"), info.alignment)
    else:
        print("No SavedModel is written: only Keras on TensorFlow can. See export/to_saved_model.py")
    if not PICTURES:
        print("No pictures are drawn: pip install 'keras-arcface[plots]'")


def train(recipe: Recipe, directory: Path, output: Path, sets: dict, precision: str, arguments) -> RecognitionModel:
    """Trains on TFRecords by a recipe, from the last checkpoint in the output folder if there is one."""
    keras.utils.set_random_seed(recipe.seed)
    if arguments.deterministic:
        tf.config.experimental.enable_op_determinism()
    info = data.load_info(directory)
    model = recipes.build(recipe, info.num_classes, info.num_examples, info.image_size)
    check(model.embedder, info, output, sets, arguments.shuffle_seed)
    last_step = arguments.steps or recipes.total_steps(recipe, info.num_examples)
    every = arguments.every or min(2000, math.ceil(last_step / 10))
    batch_size = recipe.batch_size // recipe.accumulate
    choices = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "text"}
    data_seen = {"num_examples": info.num_examples, "num_classes": info.num_classes, "cache": arguments.cache}
    about = {**choices, **data_seen, "precision": precision}
    checkpoints = training.Checkpoints(output / "checkpoints", every, about=about)
    start = checkpoints.restore(model)
    if start >= last_step:
        raise ValueError(
            f"{output} has done {start} steps already. Expected: more --steps than that. Received: {last_step}"
        )
    images = data.load_dataset(
        directory,
        batch_size=batch_size,
        training=True,
        seed=recipe.seed,
        start_step=start,
        num_classes=info.num_classes,
        augmentation=recipes.AUGMENTATIONS[recipe.augmentation],
        cache=arguments.cache,
    )
    print(
        f"\n{recipe.backbone} (width {recipe.width}, {model.embedder.count_params():,} weights), {recipe.head}, "
        f"{precision}: {info.num_examples:,} images of {info.num_classes:,} people, {last_step:,} steps of {batch_size}"
    )
    if start:
        print(f"Going on behind step {start:,}")
    elif recipe.head != "softmax":
        expected = training.expected_first_loss(model.head, recipe.dim)
        print(f"The loss should start at about {expected:.1f}, and the angle to the own center at 1.57")
    if training.check_replicas(model, images) is not None:
        print(f"{model.distribute_strategy.num_replicas_in_sync} devices compute what one does")
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    interrupt = training.StopOnInterrupt(checkpoints, start)
    callbacks = [
        training.AlignEpochs(every, start),
        training.StopOnNaN(recipe.seed, f"Its images and their names: {command(arguments)} --replay {{step}}", start),
        checkpoints,
        *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if recipe.ema else []),
        *([training.VerificationCallback(sets, shuffle_seed=arguments.shuffle_seed, start_step=start)] if sets else []),
        training.TrainingLog(output, batch_size, max(1, min(50, every // 5)), tensorboard, start),
        training.ProgressBar(last_step, batch_size, start),
        training.StopAtStep(last_step, start),
        interrupt,
    ]
    # What Keras calls an epoch is here the time between two checkpoints, and two verifications.
    with interrupt:
        model.fit(
            images,
            steps_per_epoch=every,
            initial_epoch=start // every,
            epochs=math.ceil(last_step / every),
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    return model


def export(embedder: keras.Model, output: Path, rocs: list, alignment: str | None) -> Path:
    """Writes the embedder as the printed figures describe it: with mirror images, and thresholds from all sets."""
    evaluated = evaluation.Roc.pooled(rocs) if rocs else None
    if evaluated is not None:
        print(
            "\nThe SavedModel adds the mirror image too; its thresholds are from "
            f"{len(evaluated.impostor):,} impostor pairs"
        )
    target = serving.next_version(output / "saved_model")
    return serving.export_saved_model(embedder, target, mirror=bool(rocs), evaluation=evaluated, alignment=alignment)


def verify(name: str, embedder: keras.Model, pairs: data.PairSet, head: str, shuffle_seed) -> dict:
    """Compares the embedder with raw pixels on pairs of people it has not seen, in a table."""
    embeddings = {
        head: evaluation.embed_pairs(embedder, pairs),
        "raw pixels": evaluation.embed_pairs(raw_pixels, pairs, flip=False),
        "raw, mirrored": evaluation.embed_pairs(raw_pixels, pairs),
    }
    results = {
        name: evaluation.verify(rows, pairs.same, shuffle_seed=shuffle_seed) for name, rows in embeddings.items()
    }
    print(f"\nVerification of {name}, {np.sum(pairs.same)} genuine and {np.sum(~pairs.same)} impostor pairs, 10 folds:")
    print(tables.verification_table(results, intervals=False))
    print(f"(mirrored: the embedding of the mirror image is added, as published figures do; {head}'s too)")
    return results


def raw_pixels(images):
    """The baseline: the pixels themselves as embedding."""
    return np.reshape(images, (len(images), -1))


def replay(recipe: Recipe, directory: Path, output: Path, step: int, cache: str | None) -> None:
    """Shows what a step of a training saw: names and labels, and the images in one picture."""
    dataset = data.load_dataset(
        directory,
        batch_size=recipe.batch_size // recipe.accumulate,
        training=True,
        seed=recipe.seed,
        start_step=step,
        augmentation=recipes.AUGMENTATIONS[recipe.augmentation],
        cache=cache,  # which the order depends on
        names=True,
    )
    images, labels, names = (part.numpy() for part in next(iter(dataset)))
    print(f"Step {step}, seed {recipe.seed}, {len(labels)} images, as they were augmented:")
    for place, (image, label, name) in enumerate(zip(images, labels, names, strict=True)):
        print(f"{place:5d}  label {label:7d}  pixels {image.min():3d}..{image.max():3d}  {name.decode()}")
    columns = math.ceil(len(images) ** 0.5)
    blank = np.zeros((-len(images) % columns, *images.shape[1:]), images.dtype)
    rows = np.split(np.concatenate([images, blank]), math.ceil(len(images) / columns))
    picture = output / f"step_{step}.png"
    cv2.imwrite(str(picture), np.concatenate([np.concatenate(row, axis=1) for row in rows])[..., ::-1])
    print("\nWritten:", picture, sep="\n  ")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="\n\n".join(f"{name}: {recipe.text}" for name, recipe in recipes.RECIPES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="directory of TFRecords to train on; default: the ORL faces")
    parser.add_argument("--recipe", choices=recipes.RECIPES, help="see below; default: orl, with --data ms1mv3_r50")
    parser.add_argument("--verify", type=Path, nargs="+", default=[], help="pair sets, .bin or .npz")
    parser.add_argument("--shuffle-seed", type=int, help="for pairs that do not stand in folds: cut in a random order")
    parser.add_argument(
        "--output", type=Path, help="folder to write to, or to go on in; default: a new one under runs/"
    )
    parser.add_argument("--every", type=int, help="steps between checkpoints; default: a tenth of all, at most 2000")
    parser.add_argument("--steps", type=int, help="stop after this many steps, to try things out")
    parser.add_argument("--replay", type=int, metavar="STEP", help="only show what this step sees, with names")
    parser.add_argument("--strategy", choices=training.STRATEGIES, default="auto", help="where to train")
    parser.add_argument("--precision", choices=training.PRECISIONS, default="auto", help="what to compute in")
    parser.add_argument("--cache", choices=["encoded", "decoded"], help="hold the data in memory")
    parser.add_argument("--deterministic", action="store_true", help="the same weights each time, if slower")
    options = parser.add_argument_group("choices of a recipe")
    choices = {
        "backbone": recipes.BACKBONES,
        "head": recipes.HEAD_NAMES,
        "optimizer": recipes.OPTIMIZERS,
        "schedule": recipes.SCHEDULES,
        "augmentation": list(recipes.AUGMENTATIONS),
    }
    fields = [field for field in dataclasses.fields(Recipe) if field.name != "text"]
    for field in fields:
        options.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, choices=choices.get(field.name))
    arguments = parser.parse_args()
    if arguments.output is None:
        arguments.output = Path("runs") / datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    recipe = recipes.RECIPES[arguments.recipe or ("orl" if arguments.data is None else "ms1mv3_r50")]
    chosen = {field.name: getattr(arguments, field.name) for field in fields}
    if chosen["margin"] is None and chosen["head"] not in (None, recipe.head):
        chosen["margin"] = recipes.MARGINS.get(chosen["head"])
    recipe = dataclasses.replace(recipe, **{name: value for name, value in chosen.items() if value is not None})
    if recipe.batch_size % recipe.accumulate:
        parser.error(f"--batch-size {recipe.batch_size} is no multiple of --accumulate {recipe.accumulate}")
    if recipe.stem_strides != 1 and not recipe.backbone.startswith("IResNet"):
        parser.error(f"--stem-strides is for IResNet. Received: {recipe.stem_strides} with {recipe.backbone}")
    if (recipe.schedule == "step") != bool(recipe.drops):
        parser.error(
            f"--drops goes with --schedule step. Received: --schedule {recipe.schedule} --drops '{recipe.drops}'"
        )
    return arguments, recipe


if __name__ == "__main__":
    main()
