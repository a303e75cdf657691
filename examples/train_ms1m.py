"""Trains a face embedder with ArcFace, from TFRecords to a served model.

Without arguments, it runs a demo on the ORL faces in a few minutes on two CPU cores: it trains on people 1 to 30 and
verifies people 31 to 40, whom the network has never seen.

    python examples/train_ms1m.py

With `--data`, it trains on your own TFRecords (see make_tfrecords.py) on every GPU of the machine. `--recipe` selects a
recipe of recipes.py; an option overrides each of its settings:

    python examples/train_ms1m.py --data ms1m_tfrecord --recipe ms1mv2_r100 --verify lfw.bin cfp_fp.bin --output runs/1

If a run is stopped (Ctrl-C stops it after a step) or killed, the same command resumes it. The output folder contains
embedder.keras, steps.csv, verification.csv, event files for TensorBoard, curves.png, checkpoints/, verification.png,
and saved_model/1, a version for TensorFlow Serving. With a verification set, the SavedModel matches the printed
figures: it adds the embedding of the mirror image, and contains the thresholds of the set.
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
from keras_arcface.data import encoded_images
from keras_arcface.evaluation import tables

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def main():
    arguments, recipe = parse_arguments()
    if arguments.strategy == "jax" and keras.backend.backend() != "jax":
        # Keras fixes its backend when it is imported, so the process restarts with another one.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "KERAS_BACKEND": "jax"})
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        run(arguments, recipe)
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        reason = str(stopped) or "Stopped by Ctrl-C"
        print(f"\n{reason}. To resume, run: {command(arguments)}", file=sys.stderr)
        sys.exit(130)


def command(arguments) -> str:
    """Returns the command that resumes this run, including its output folder."""
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
    with training.device_scope(arguments.strategy):
        model = train(recipe, directory, output, sets, precision, arguments)

    written = [output / "embedder.keras"]
    model.embedder.save(written[0])
    if recipe.sub_centers > 1:  # clean_labels.py reads them
        written.append(output / "centers.npy")
        np.save(written[-1], np.array(model.head.centers))
    if HAS_MATPLOTLIB:
        written.append(training.plot_training(output))
    rocs = []
    for name, pairs in sets.items():
        results = verify(name, model.embedder, pairs, recipe.head, arguments.shuffle_seed)
        rocs.append(results[recipe.head].roc)
        if HAS_MATPLOTLIB:
            plot = output / ("verification.png" if len(sets) == 1 else f"verification_{name}.png")
            shown = {row: results[row] for row in (recipe.head, "raw pixels")}
            written.append(evaluation.plot_verification(shown, plot))
    if keras.backend.backend() == "tensorflow":
        written.append(export(model.embedder, output, rocs, data.load_info(directory).alignment))
    print("\nWritten:", *written, sep="\n  ")


def check(embedder: keras.Model, info: data.DatasetInfo, output: Path, sets: dict, shuffle_seed) -> None:
    """Raises errors before the training that would otherwise occur after it."""
    with tempfile.TemporaryFile(dir=output):
        pass  # fails now, not after the training, if the folder is read-only
    for name, pairs in sets.items():
        where = f"image 0 of {name}"
        size = encoded_images.decoded_size(encoded_images.to_jpeg_or_png(pairs.images[0], where), where)
        if size != info.image_size:
            raise ValueError(
                f"--verify {name}: expected images of {info.image_size[0]} x {info.image_size[1]} (height x width), "
                f"the size of the training images. Received: {size[0]} x {size[1]}"
            )
        random_embeddings = np.random.default_rng(0).normal(size=(2 * len(pairs), 2))
        evaluation.verify(random_embeddings, pairs.same, shuffle_seed=shuffle_seed)  # checks the pairs and folds
    if keras.backend.backend() == "tensorflow":
        serving.check_exportable(embedder, serving.next_version(output / "saved_model"), info.alignment)
    else:
        print("No SavedModel will be written, as this requires the TensorFlow backend. See export/to_saved_model.py")
    if not HAS_MATPLOTLIB:
        print("No plots will be drawn. To draw them: pip install 'keras-arcface[plots]'")


def train(recipe: Recipe, directory: Path, output: Path, sets: dict, precision: str, arguments) -> RecognitionModel:
    """Trains by a recipe on TFRecords, starting from the last checkpoint in the output folder if one exists."""
    keras.utils.set_random_seed(recipe.seed)
    if arguments.deterministic:
        tf.config.experimental.enable_op_determinism()
    info = data.load_info(directory)
    model = recipes.build(recipe, info.num_classes, info.num_examples, info.image_size)
    check(model.embedder, info, output, sets, arguments.shuffle_seed)
    last_step = arguments.steps or recipes.total_steps(recipe, info.num_examples)
    every = arguments.every or min(2000, math.ceil(last_step / 10))
    batch_size = recipe.batch_size // recipe.accumulate
    choices = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "description"}
    data_seen = {"num_examples": info.num_examples, "num_classes": info.num_classes, "cache": arguments.cache}
    run_config = {**choices, **data_seen, "precision": precision}
    checkpoints = training.Checkpoints(output / "checkpoints", every, run_config=run_config)
    start = checkpoints.restore(model)
    if start >= last_step:
        raise ValueError(f"{output} contains a run of {start} steps. Expected: a larger --steps. Received: {last_step}")
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
        print(f"Resuming after step {start:,}")
    elif recipe.head != "softmax":
        expected = model.head.expected_first_loss(recipe.dim)
        print(f"The loss should start at about {expected:.1f}, and target_angle at 1.57")
    if training.check_replicas(model, images) is not None:
        print(f"{model.distribute_strategy.num_replicas_in_sync} devices compute the same as one device")
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    interrupt = training.StopOnInterrupt(checkpoints, start)
    callbacks = [
        training.AlignEpochs(every, start),
        training.StopOnNaN(
            recipe.seed, f"To see its images and their names, run: {command(arguments)} --replay {{step}}", start
        ),
        checkpoints,
        *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if recipe.ema else []),
        *([training.VerificationCallback(sets, shuffle_seed=arguments.shuffle_seed, start_step=start)] if sets else []),
        training.TrainingLog(output, batch_size, max(1, min(50, every // 5)), tensorboard, start),
        training.ProgressBar(last_step, batch_size, start),
        training.StopAtStep(last_step, start),
        interrupt,
    ]
    # An epoch of fit is the interval between two checkpoints and verifications.
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
    """Exports the embedder with mirror images and the thresholds of all verification sets."""
    evaluated = evaluation.Roc.from_rocs(rocs) if rocs else None
    if evaluated is not None:
        print(
            "\nThe SavedModel adds the embedding of the mirror image. Its thresholds are computed from "
            f"{len(evaluated.impostor):,} impostor pairs"
        )
    target = serving.next_version(output / "saved_model")
    return serving.export_saved_model(embedder, target, mirror=bool(rocs), evaluation=evaluated, alignment=alignment)


def verify(name: str, embedder: keras.Model, pairs: data.PairSet, head: str, shuffle_seed) -> dict:
    """Prints a table that compares the embedder with raw pixels on pairs of unseen people."""
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
    print(f"({head} and mirrored: the embedding of the mirror image is added, as in published figures)")
    return results


def raw_pixels(images):
    """Returns the pixels as embeddings, as a baseline."""
    return np.reshape(images, (len(images), -1))


def replay(recipe: Recipe, directory: Path, output: Path, step: int, cache: str | None) -> None:
    """Prints the names and labels of a training step and writes its images to one picture."""
    dataset = data.load_dataset(
        directory,
        batch_size=recipe.batch_size // recipe.accumulate,
        training=True,
        seed=recipe.seed,
        start_step=step,
        augmentation=recipes.AUGMENTATIONS[recipe.augmentation],
        cache=cache,  # the order of the images depends on it
        names=True,
    )
    images, labels, names = (part.numpy() for part in next(iter(dataset)))
    print(f"Step {step}, seed {recipe.seed}, {len(labels)} augmented images:")
    for position, (image, label, name) in enumerate(zip(images, labels, names, strict=True)):
        print(f"{position:5d}  label {label:7d}  pixels {image.min():3d}..{image.max():3d}  {name.decode()}")
    columns = math.ceil(len(images) ** 0.5)
    blank = np.zeros((-len(images) % columns, *images.shape[1:]), images.dtype)
    rows = np.split(np.concatenate([images, blank]), math.ceil(len(images) / columns))
    picture = output / f"step_{step}.png"
    cv2.imwrite(str(picture), np.concatenate([np.concatenate(row, axis=1) for row in rows])[..., ::-1])
    print("\nWritten:", picture, sep="\n  ")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="\n\n".join(f"{name}: {recipe.description}" for name, recipe in recipes.RECIPES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="directory of TFRecords to train on; default: the ORL faces")
    parser.add_argument("--recipe", choices=recipes.RECIPES, help="see below; default: orl, or ms1mv3_r50 with --data")
    parser.add_argument("--verify", type=Path, nargs="+", default=[], help="verification sets, .bin or .npz")
    parser.add_argument("--shuffle-seed", type=int, help="shuffle the pairs before they are split into folds")
    parser.add_argument(
        "--output", type=Path, help="output folder, or the folder of a run to resume; default: a new folder in runs/"
    )
    parser.add_argument(
        "--every", type=int, help="steps between checkpoints; default: a tenth of all steps, at most 2000"
    )
    parser.add_argument("--steps", type=int, help="stop after this number of steps, for trials")
    parser.add_argument("--replay", type=int, metavar="STEP", help="only show the images and names of this step")
    parser.add_argument("--strategy", choices=training.STRATEGIES, default="auto", help="devices to train on")
    parser.add_argument("--precision", choices=training.PRECISIONS, default="auto", help="precision of the computation")
    parser.add_argument("--cache", choices=["encoded", "decoded"], help="keep the data in memory")
    parser.add_argument("--deterministic", action="store_true", help="get identical weights in each run (slower)")
    options = parser.add_argument_group("settings of the recipe")
    choices = {
        "backbone": recipes.BACKBONES,
        "head": recipes.HEAD_NAMES,
        "optimizer": recipes.OPTIMIZERS,
        "schedule": recipes.SCHEDULES,
        "augmentation": list(recipes.AUGMENTATIONS),
    }
    fields = [field for field in dataclasses.fields(Recipe) if field.name != "description"]
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
        parser.error(
            f"--batch-size must be a multiple of --accumulate {recipe.accumulate}. Received: {recipe.batch_size}"
        )
    if recipe.stem_strides != 1 and not recipe.backbone.startswith("IResNet"):
        parser.error(f"--stem-strides requires an IResNet. Received: {recipe.stem_strides} with {recipe.backbone}")
    if (recipe.schedule == "step") != bool(recipe.drops):
        parser.error(
            "--drops and --schedule step require each other. "
            f"Received: --schedule {recipe.schedule} --drops '{recipe.drops}'"
        )
    return arguments, recipe


if __name__ == "__main__":
    main()
