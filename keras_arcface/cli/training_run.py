"""A training run with a recipe: checks, `fit` with its callbacks, verification, plots and export."""

import argparse
import dataclasses
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import RecognitionModel
from keras_arcface import _optional
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import recipes
from keras_arcface import serving
from keras_arcface import training
from keras_arcface.cli import teacher as teachers
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_writable
from keras_arcface.cli.replay import replay
from keras_arcface.data import encoded_images
from keras_arcface.evaluation import tables
from keras_arcface.recipes import Recipe


def run(arguments: argparse.Namespace, recipe: Recipe, directory: Path, sets: dict[str, data.PairSet]) -> None:
    """Trains with a recipe on TFRecords, verifies, and exports.

    Args:
        arguments: options of `keras_arcface.cli.training_options`.
        recipe: a `Recipe`.
        directory: directory of TFRecords.
        sets: a name -> `PairSet` dictionary.
    """
    output, say = arguments.output, text_printer(arguments)
    info = data.load_info(directory)
    if info.num_classes < 2:
        raise ValueError(f"{directory}: training requires at least two classes. Received: {info.num_classes}")
    output.mkdir(parents=True, exist_ok=True)
    if arguments.replay is not None:
        _finish(arguments, [replay(recipe, directory, output, arguments.replay, arguments.cache, say)], {})
        return

    precision = training.use_precision(arguments.precision)
    with training.device_scope(arguments.strategy):
        model = _train(recipe, directory, info, sets, precision, arguments, say)

    written = [output / "recipe.toml", output / "embedder.keras"]
    model.embedder.save(written[-1])
    if recipe.sub_centers > 1:  # `clean-labels` reads them
        written.append(output / "centers.npy")
        np.save(written[-1], np.array(model.head.centers))
    has_plots = _optional.is_installed("matplotlib")
    if has_plots:
        written.append(training.plot_training(output))
    results = {}
    for name, pairs in sets.items():
        by_model = _verify(name, model.embedder, pairs, recipe.head, arguments.shuffle_seed, say)
        results[name] = by_model[recipe.head]
        if has_plots:
            plot = output / ("verification.png" if len(sets) == 1 else f"verification_{name}.png")
            shown = {row: by_model[row] for row in (recipe.head, "raw pixels")}
            written.append(evaluation.plot_verification(shown, plot))
    if keras.backend.backend() == "tensorflow":
        rocs = [result.roc for result in results.values()]
        written.append(_export(model.embedder, output, rocs, info.alignment, say))
    _finish(arguments, written, {name: evaluation.to_json(result) for name, result in results.items()})
    if keras.backend.backend() == "tensorflow":
        served = shlex.quote(f"embedder={written[-1].parent}")
        say("\nTo serve it, run:", f"keras-arcface server-config config {served}", sep="\n  ")


def _finish(arguments: argparse.Namespace, written: list[Path], verification: dict[str, Any]) -> None:
    """Prints what was written, as text or as JSON."""
    text_printer(arguments)("\nWritten:", *written, sep="\n  ")
    if arguments.json:
        print_json({"written": [str(path) for path in written], "verification": verification})


def check(
    embedder: keras.Model, info: data.DatasetInfo, output: Path, sets: dict[str, data.PairSet], shuffle_seed: int | None
) -> list[str]:
    """Raises errors before the training that would otherwise occur after it. Returns what will be missing."""
    check_writable(output)
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
    missing = []
    if keras.backend.backend() == "tensorflow":
        serving.check_exportable(embedder, serving.next_version(output / "saved_model"), info.alignment)
    else:
        missing.append(
            "No SavedModel will be written, as this requires the TensorFlow backend. "
            "See: keras-arcface export saved-model --help"
        )
    if not _optional.is_installed("matplotlib"):
        missing.append("No plots will be drawn. To draw them: pip install 'keras-arcface[plots]'")
    return missing


def _train(
    recipe: Recipe,
    directory: Path,
    info: data.DatasetInfo,
    sets: dict[str, data.PairSet],
    precision: str,
    arguments: argparse.Namespace,
    say: Callable[..., None],
) -> RecognitionModel:
    """Trains a model, starting from the last checkpoint in the output folder if one exists."""
    output = arguments.output
    if arguments.deterministic:
        tf.config.experimental.enable_op_determinism()
    teacher = teachers.Teacher("", None, None)
    if recipe.needs_teacher:
        teacher = teachers.prepare(
            arguments.teacher, recipe, directory, arguments.teacher_folder, info, arguments.accept_license
        )
    keras.utils.set_random_seed(recipe.seed)  # the weights do not depend on whether embeddings were computed now
    model = recipes.build(recipe, info.num_classes, info.num_examples, info.image_size, teacher.online, teacher.stored)
    for line in check(model.embedder, info, output, sets, arguments.shuffle_seed):
        say(line)
    if info.num_examples < recipe.batch_size:
        say(
            f"{directory} has fewer images than a batch, which will contain some of them several times. "
            f"Images: {info.num_examples:,}, --batch-size: {recipe.batch_size:,}"
        )
    last_step = arguments.steps or recipe.total_steps(info.num_examples)
    every = arguments.every or min(2000, math.ceil(last_step / 10))
    batch_size = recipe.batch_size // recipe.accumulate
    checkpoints = training.Checkpoints(
        output / "checkpoints", every, run_config=_run_config(recipe, info, arguments.cache, precision, teacher)
    )
    start = checkpoints.restore(model)
    if start >= last_step:
        raise ValueError(f"{output} contains a run of {start} steps. Expected: a larger --steps. Received: {last_step}")
    recipes.save(recipe, output / "recipe.toml")
    images = data.load_dataset(
        directory,
        batch_size=batch_size,
        training=True,
        seed=recipe.seed,
        start_step=start,
        num_classes=info.num_classes,
        augmentation=recipes.make_augmentation(recipe),
        images_per_class=recipe.images_per_class or None,
        cache=arguments.cache,
        teacher=teacher.stored if recipe.distillation > 0 and teacher.online is None else None,
    )
    say(
        f"\n{recipe.backbone} (width {recipe.width}, {model.embedder.count_params():,} weights), {recipe.head}, "
        f"{precision}: {info.num_examples:,} images of {info.num_classes:,} classes, "
        f"{last_step:,} steps of {batch_size}"
    )
    if start:
        say(f"Resuming after step {start:,}")
    elif recipe.head != "softmax" and not recipe.triplet:
        expected = model.head.expected_first_loss(recipe.dim)
        say(f"The loss should start at about {expected:.1f}, and target_angle at 1.57")
    if training.check_replicas(model, images) is not None:
        say(f"{model.distribute_strategy.num_replicas_in_sync} devices compute the same as one device")
    interrupt = training.StopOnInterrupt(checkpoints, start)
    callbacks = _callbacks(arguments, recipe, sets, checkpoints, start, every, last_step)
    # An epoch of fit is the interval between two checkpoints and verifications.
    with interrupt:
        model.fit(
            images,
            steps_per_epoch=every,
            initial_epoch=start // every,
            epochs=math.ceil(last_step / every),
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, interrupt],
        )
    return model


def _callbacks(
    arguments: argparse.Namespace,
    recipe: Recipe,
    sets: dict[str, data.PairSet],
    checkpoints: training.Checkpoints,
    start: int,
    every: int,
    last_step: int,
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a run from step `start` to `last_step`, with a checkpoint after every `every` steps."""
    batch_size = recipe.batch_size // recipe.accumulate
    how_to_see = f"To see its images and their names, run: {arguments.command_line} --replay {{step}}"
    callbacks = [training.AlignEpochs(every, start), training.StopOnNaN(recipe.seed, how_to_see, start), checkpoints]
    if recipe.ema:
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if sets:
        callbacks.append(training.VerificationCallback(sets, shuffle_seed=arguments.shuffle_seed, start_step=start))
    writes_events = _optional.is_installed("tensorboard")
    return [
        *callbacks,
        training.TrainingLog(arguments.output, batch_size, max(1, min(50, every // 5)), writes_events, start),
        training.ProgressBar(last_step, batch_size, start),
        training.StopAtStep(last_step, start),
    ]


def _run_config(
    recipe: Recipe, info: data.DatasetInfo, cache: str | None, precision: str, teacher: teachers.Teacher
) -> dict[str, Any]:
    """Returns the settings that must not change when a run is resumed."""
    settings = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "description"}
    lists = {name: list(value) for name, value in settings.items() if isinstance(value, tuple)}
    data_seen = {"num_examples": info.num_examples, "num_classes": info.num_classes, "cache": cache}
    seen_by_teacher = {"teacher": teacher.fingerprint} if teacher.fingerprint else {}
    return {**settings, **lists, **data_seen, **seen_by_teacher, "precision": precision}


def _export(embedder: keras.Model, output: Path, rocs: list, alignment: str | None, say: Callable[..., None]) -> Path:
    """Exports the embedder with mirror images and the thresholds of all verification sets."""
    evaluated = evaluation.Roc.from_rocs(rocs) if rocs else None
    if evaluated is not None:
        say(
            "\nThe SavedModel adds the embedding of the mirror image. Its thresholds are computed from "
            f"{len(evaluated.impostor):,} impostor pairs"
        )
    target = serving.next_version(output / "saved_model")
    return serving.export_saved_model(embedder, target, mirror=bool(rocs), evaluation=evaluated, alignment=alignment)


def _verify(
    name: str, embedder: keras.Model, pairs: data.PairSet, head: str, shuffle_seed: int | None, say: Callable[..., None]
) -> dict[str, evaluation.VerificationResult]:
    """Prints a table that compares the embedder with raw pixels on verification pairs."""
    embeddings = {
        head: evaluation.embed_pairs(embedder, pairs),
        "raw pixels": evaluation.embed_pairs(_raw_pixels, pairs, flip=False),
        "raw, mirrored": evaluation.embed_pairs(_raw_pixels, pairs),
    }
    results = {
        row: evaluation.verify(vectors, pairs.same, shuffle_seed=shuffle_seed) for row, vectors in embeddings.items()
    }
    say(f"\nVerification of {name}, {np.sum(pairs.same)} genuine and {np.sum(~pairs.same)} impostor pairs, 10 folds:")
    say(tables.verification_table(results, intervals=False))
    say(f"({head} and mirrored: the embedding of the mirror image is added, as in published figures)")
    return results


def _raw_pixels(images: np.ndarray) -> np.ndarray:
    """Returns the pixels as embeddings, as a baseline."""
    return images.reshape(len(images), -1)
