"""Shows the images of a training step, for example of the first step with a loss of NaN."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from keras_arcface import data
from keras_arcface import recipes
from keras_arcface.recipes import Recipe


def replay(
    recipe: Recipe, directory: Path, output: Path, step: int, cache: str | None, say: Callable[..., None]
) -> Path:
    """Prints the names and labels of a step and writes its images to one picture, whose path it returns."""
    dataset = data.load_dataset(
        directory,
        batch_size=recipe.batch_size // recipe.accumulate,
        training=True,
        seed=recipe.seed,
        start_step=step,
        augmentation=recipes.make_augmentation(recipe),
        images_per_class=recipe.images_per_class or None,
        cache=cache,  # the order of the images depends on it
        names=True,
    )
    images, labels, names = (part.numpy() for part in next(iter(dataset)))
    say(f"Step {step}, seed {recipe.seed}, {len(labels)} augmented images:")
    for position, (image, label, name) in enumerate(zip(images, labels, names, strict=True)):
        say(f"{position:5d}  label {label:7d}  pixels {image.min():3d}..{image.max():3d}  {name.decode()}")
    columns = math.ceil(len(images) ** 0.5)
    blank = np.zeros((-len(images) % columns, *images.shape[1:]), images.dtype)
    rows = np.split(np.concatenate([images, blank]), math.ceil(len(images) / columns))
    picture = output / f"step_{step}.png"
    pixels = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    picture.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())  # unlike imwrite, it raises an error
    return picture
