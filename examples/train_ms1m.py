"""Trains a face embedder with ArcFace, from TFRecords to a served model.

Without arguments it is a demonstration on the ORL faces, from end to end in a few minutes on two CPU cores: people 1
to 30 are written as TFRecords and trained on, people 31 to 40, never seen, are verified.

    python examples/train_ms1m.py

With `--data` it trains on TFRecords of your own (see make_tfrecords.py) by the recipe of the ArcFace paper, on every
GPU of the machine:

    python examples/train_ms1m.py --data ms1m_tfrecord --pairs pairs.npz

It leaves, in a new folder under runs/ (or in --output): embedder.keras, verification.png, and saved_model/1, a version
as TensorFlow Serving wants it.
"""

import argparse
import dataclasses
import datetime
from pathlib import Path

import keras
import numpy as np
import orl_faces

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import models
from keras_arcface import serving
from keras_arcface import training
from keras_arcface.data import augment
from keras_arcface.evaluation import tables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All choices of a run. Each is an option of the command line too."""

    backbone: str
    width: int
    dim: int
    dropout: float
    margin: float
    scale: float
    optimizer: str
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    augmentation: str
    seed: int = 0


# 300 images: a small network, strong augmentation, a high rate, and a smaller scale than for a million.
ORL = Recipe(
    backbone="IResNet18",
    width=16,
    dim=512,
    dropout=0.4,
    margin=0.5,
    scale=30.0,
    optimizer="SGD",
    learning_rate=0.3,
    weight_decay=5e-3,
    batch_size=30,
    epochs=35,
    augmentation="affine",
)

# ArcFace paper, section 3.1. Keras' weight decay does not pass through the momentum: 5e-4 there is 5e-4 / (1 - 0.9)
# here.
MS1M = Recipe(
    backbone="IResNet50",
    width=64,
    dim=512,
    dropout=0.4,
    margin=0.5,
    scale=64.0,
    optimizer="SGD",
    learning_rate=0.1,
    weight_decay=5e-3,
    batch_size=512,
    epochs=16,
    augmentation="flip",
)

OPTIMIZERS = {
    "AdamW": keras.optimizers.AdamW,
    "SGD": lambda *args, **kwargs: keras.optimizers.SGD(*args, momentum=0.9, **kwargs),
}
AUGMENTATIONS = {"none": None, "flip": augment.flip, "affine": augment.affine, "adaface": augment.adaface}


def main():
    arguments, recipe = parse_arguments()
    output = arguments.output or Path("runs") / datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    output.mkdir(parents=True, exist_ok=True)

    directory, pairs = arguments.data, None
    if directory is None:
        directory = output / "tfrecords"
        data.write_dataset(orl_faces.OrlFaces(range(1, 31)), directory)
        pairs = orl_faces.verification_pairs(range(31, 41))
    if arguments.pairs is not None:
        pairs = data.PairSet.load(arguments.pairs)

    model = train(recipe, directory, arguments.steps)

    written = [output / "embedder.keras"]
    model.embedder.save(written[0])
    if pairs is not None:
        written.append(verify(model.embedder, pairs, output / "verification.png"))
    written.append(serving.export_saved_model(model.embedder, output / "saved_model" / "1"))
    print("\nWritten:", *written, sep="\n  ")


def train(recipe: Recipe, directory: Path, steps: int | None) -> RecognitionModel:
    """Trains on TFRecords by a recipe, or for a number of steps only."""
    keras.utils.set_random_seed(recipe.seed)
    info = data.load_info(directory)
    steps_per_epoch = max(1, info.num_examples // recipe.batch_size)
    total_steps = steps or recipe.epochs * steps_per_epoch
    images = data.load_dataset(
        directory,
        batch_size=recipe.batch_size,
        training=True,
        seed=recipe.seed,
        augmentation=AUGMENTATIONS[recipe.augmentation],
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / 10,
        warmup_target=recipe.learning_rate,
        warmup_steps=total_steps // 15,
        decay_steps=total_steps - total_steps // 15,
    )
    with training.all_gpus_strategy().scope():
        backbone = getattr(backbones, recipe.backbone)(width=recipe.width, input_shape=(*info.image_size, 3))
        embedder = models.make_embedder(backbone, dim=recipe.dim, dropout=recipe.dropout)
        head = ArcFace(info.num_classes, margin=recipe.margin, scale=recipe.scale)
        model = RecognitionModel(embedder, head)
        model.compile(OPTIMIZERS[recipe.optimizer](schedule, weight_decay=recipe.weight_decay))
    print(
        f"\nTraining {recipe.backbone} (width {recipe.width}, {embedder.count_params():,} weights) with ArcFace on "
        f"{info.num_examples:,} images of {info.num_classes:,} people: {total_steps:,} steps of {recipe.batch_size}"
    )
    if steps:
        model.fit(images, steps_per_epoch=steps, shuffle=False)
    else:
        model.fit(images, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs, shuffle=False)
    return model


def verify(embedder: keras.Model, pairs: data.PairSet, picture: Path) -> Path:
    """Compares the embedder with raw pixels on pairs of people it has not seen: a table, and a picture."""
    embeddings = {
        "ArcFace": evaluation.embed_pairs(embedder, pairs),
        "raw pixels": evaluation.embed_pairs(raw_pixels, pairs, flip=False),
        "raw, mirrored": evaluation.embed_pairs(raw_pixels, pairs),
    }
    results = {name: evaluation.verify(rows, pairs.same) for name, rows in embeddings.items()}
    print(f"\nVerification, {np.sum(pairs.same)} genuine and {np.sum(~pairs.same)} impostor pairs, 10 folds:")
    print(tables.verification_table(results, intervals=False))
    print("(mirrored: the embedding of the mirror image is added, as published figures do; ArcFace's too)")
    return evaluation.plot_verification({name: results[name] for name in ("ArcFace", "raw pixels")}, picture)


def raw_pixels(images):
    """The baseline: the pixels themselves as embedding."""
    return np.reshape(images, (len(images), -1))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="Defaults of the recipe: see ORL and MS1M in this file."
    )
    parser.add_argument("--data", type=Path, help="directory of TFRecords to train on; default: the ORL faces")
    parser.add_argument("--pairs", type=Path, help="pair set to verify: .bin, or .npz")
    parser.add_argument("--output", type=Path, help="folder to write to; default: a new one under runs/")
    parser.add_argument("--steps", type=int, help="stop after this many steps, to try things out")
    recipe = parser.add_argument_group("recipe")
    choices = {
        "backbone": [name for name in backbones.__all__ if name != "IResNet"],
        "optimizer": list(OPTIMIZERS),
        "augmentation": list(AUGMENTATIONS),
    }
    for field in dataclasses.fields(Recipe):
        recipe.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, choices=choices.get(field.name))
    arguments = parser.parse_args()
    chosen = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Recipe)}
    defaults = ORL if arguments.data is None else MS1M
    return arguments, dataclasses.replace(defaults, **{k: v for k, v in chosen.items() if v is not None})


if __name__ == "__main__":
    main()
