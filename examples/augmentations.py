"""Draws what each augmentation of `keras_arcface.data.augment` does to a face.

    pip install 'keras-arcface[plots]' scikit-image
    python examples/augmentations.py docs/augmentations.jpg

The face is that of the astronaut Eileen Collins (NASA, public domain), which comes with scikit-image, aligned by five
landmarks. With `--image face.jpg` it is another, aligned already.
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

DRAWS = 9
# Eyes, nose and corners of the mouth in the picture, by eye: x and y in pixels.
ASTRONAUT = [(203.3, 101.3), (246.7, 103.7), (226.3, 127.5), (204.2, 140.8), (243.3, 141.7)]

CHANGES = {
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
    parser.add_argument("output", type=Path, help="the picture to write")
    parser.add_argument("--image", type=Path, help="an aligned face")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw(face(arguments.image), arguments.seed, arguments.output)
    print(arguments.output)


def face(path: Path | None) -> np.ndarray:
    if path is not None:
        return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    import skimage.data

    return data.align(skimage.data.astronaut(), ASTRONAUT)


def with_border(image: np.ndarray) -> np.ndarray:
    """As if the photograph had ended above the face, and a little turned."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    return np.where((rows < height / 5 + columns / 12)[..., np.newaxis], 0, image).astype(image.dtype)


def draw(image: np.ndarray, seed: int, output: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(CHANGES), DRAWS + 1, figsize=(DRAWS + 2.6, len(CHANGES) * 1.02))
    for row, (name, change) in zip(axes, CHANGES.items(), strict=True):
        arguments = inspect.signature(change).parameters
        title = name
        if "probability" in arguments:
            title += f"\nprobability {arguments['probability'].default:g}"
            change = functools.partial(change, probability=1.0)
        shown = with_border(image) if name == "fill_border" else image
        changed = change(tf.constant(np.repeat(shown[np.newaxis], DRAWS, axis=0)), tf.constant([seed, 0], tf.int64))
        for axis, picture in zip(row, [shown, *changed.numpy()], strict=True):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    axes[0][0].set_title("as it was", fontsize=8)
    axes[0][5].set_title("nine draws of each, applied to all images; by default, to a share of them", fontsize=8)
    figure.subplots_adjust(left=0.12, right=0.995, top=0.97, bottom=0.005, wspace=0.04, hspace=0.04)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main()
