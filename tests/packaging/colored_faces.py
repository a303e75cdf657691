"""Writes a folder of images of people, and verification pairs of others, with the installed package.

    python colored_faces.py FOLDER

A person is a pattern of colors. Images of one person differ by brightness and noise.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from keras_arcface import data

PEOPLE, IMAGES = 6, 4


def main():
    folder = Path(sys.argv[1])
    for person in range(PEOPLE):
        (folder / "faces" / f"person_{person}").mkdir(parents=True)
        for image in range(IMAGES):
            path = folder / "faces" / f"person_{person}" / f"{image}.png"
            path.write_bytes(face(person, image))
    # Ten folds of two genuine and two impostor pairs, of people who are not in the folder.
    images, same = [], []
    for fold in range(10):
        first, second = PEOPLE + 2 * fold, PEOPLE + 2 * fold + 1
        for a, i, b, j in ((first, 0, first, 1), (second, 0, second, 1), (first, 0, second, 0), (first, 1, second, 1)):
            images += [face(a, i), face(b, j)]
            same.append(a == b)
    data.PairSet(images, np.array(same)).save(folder / "pairs.npz")


def face(person, image):
    pattern = np.random.default_rng(person).integers(0, 256, (4, 4, 3)).astype(np.float32)
    random = np.random.default_rng([person, image])
    pixels = cv2.resize(pattern, (112, 112), interpolation=cv2.INTER_CUBIC) * random.uniform(0.8, 1.0)
    pixels = np.clip(pixels + random.normal(0, 10, pixels.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


if __name__ == "__main__":
    main()
