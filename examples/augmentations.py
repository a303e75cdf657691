"""Draws the effect of each augmentation of `keras_arcface.data.augment` on a face.

    pip install 'keras-arcface[plots]' scikit-image
    python examples/augmentations.py docs/augmentations.jpg

The face is astronaut Eileen Collins (NASA, public domain), an image of scikit-image, aligned by five landmarks.
`--image face.jpg` uses another, already aligned face.
"""

import argparse
import functools
import inspect
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import tensorflow as tf

from keras_arcface import data
from keras_arcface.data import augment

SAMPLES = 9
# x and y in pixels of eyes, nose and mouth corners in the image, estimated by eye.
ASTRONAUT_LANDMARKS = [(203.3, 101.3), (246.7, 103.7), (226.3, 127.5), (204.2, 140.8), (243.3, 141.7)]

AUGMENTATIONS = {
    "flip": augment.flip,
    "gray": augment.gray,
    "erase": augment.erase,
    "crop": augment.crop,
    "crop, rescale=False": functools.partial(augment.crop, rescale=False),
    "photometric": augment.photometric,
    "blur": augment.blur,
    "low_resolution": augment.low_resolution,
    "jpeg": augment.jpeg,
    "affine": augment.affine,
    "fill_border": augment.fill_border,
    "adaface": augment.adaface,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", type=Path, help="image file to write")
    parser.add_argument("--image", type=Path, help="image of an aligned face")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw(load_face(arguments.image), arguments.seed, arguments.output)
    print(arguments.output)


def load_face(path: Path | None) -> np.ndarray:
    if path is not None:
        return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    import skimage.data

    return data.align(skimage.data.astronaut(), ASTRONAUT_LANDMARKS)


def with_border(image: np.ndarray) -> np.ndarray:
    """Adds a slanted black border at the top, like a photo that ends above the face."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    return np.where((rows < height / 5 + columns / 12)[..., np.newaxis], 0, image).astype(image.dtype)


def draw(image: np.ndarray, seed: int, output: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(AUGMENTATIONS), SAMPLES + 1, figsize=(SAMPLES + 2.6, len(AUGMENTATIONS) * 1.02))
    for row, (name, augmentation) in zip(axes, AUGMENTATIONS.items(), strict=True):
        arguments = inspect.signature(augmentation).parameters
        title = name
        if "probability" in arguments:
            title += f"\nprobability {arguments['probability'].default:g}"
            augmentation = functools.partial(augmentation, probability=1.0)
        original = with_border(image) if name == "fill_border" else image
        images = tf.constant(np.repeat(original[np.newaxis], SAMPLES, axis=0))
        augmented = augmentation(images, tf.constant([seed, 0], tf.int64))
        for axis, shown in zip(row, [original, *augmented.numpy()], strict=True):
            axis.imshow(shown)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    axes[0][0].set_title("original", fontsize=8)
    axes[0][5].set_title("nine random samples, applied to all images; by default, to a fraction of them", fontsize=8)
    figure.subplots_adjust(left=0.12, right=0.995, top=0.97, bottom=0.005, wspace=0.04, hspace=0.04)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main()
