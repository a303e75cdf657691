"""A small set in the layout of Racial Faces in the Wild (RFW)."""

import numpy as np
from conftest import encode
from conftest import make_face

from keras_arcface._alignment import TEMPLATE

GROUPS = ("African", "Asian", "Caucasian", "Indian")


def write(directory, people=2, images=2, pairs=None, size=(140, 130), noise=None):
    """Writes images of `size`, landmarks, and lists of pairs.

    Args:
        directory: path of the directory.
        people: number of people of each group.
        images: number of images of each person.
        pairs: lines of each list of pairs, with `{}` before the number of a person; None for two genuine and two
            impostor pairs.
        size: height and width of the images. The landmarks fit the template, moved by the number of the image.
        noise: function from the index of a group to the standard deviation of the noise added to its pixels.
    """
    lines = pairs or ["{}0\t1\t2", "{}1\t1\t2", "{}0\t1\t{}1\t1", "{}0\t2\t{}1\t2"]
    for index, group in enumerate(GROUPS):
        prefix = f"m.{group[:2].lower()}"
        folder = directory / "txts" / group
        folder.mkdir(parents=True)
        text = "\n".join(line.replace("{}", prefix) for line in lines) + "\n"
        (folder / f"{group}_pairs.txt").write_text(text)
        landmarks = []
        for person in range(people):
            name = f"{prefix}{person}"
            (directory / "data" / group / name).mkdir(parents=True)
            for image in range(1, images + 1):
                face = make_face(100 * index + person, image, size)
                if noise:
                    rng = np.random.default_rng([index, person, image])
                    face = np.clip(face + rng.normal(0, noise(index), face.shape), 0, 255).astype(np.uint8)
                file = f"{name}/{name}_{image:04d}.jpg"
                (directory / "data" / group / file).write_bytes(encode(face, ".jpg"))
                points = "\t".join(f"{value:.2f}" for value in (TEMPLATE + image).ravel())
                landmarks.append(f"/test/data/{group}/{file}\t{person}\t{points}")
        (folder / f"{group}_lmk.txt").write_text("\n".join(landmarks) + "\n")
