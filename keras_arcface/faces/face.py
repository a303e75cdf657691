"""A detected face, and what finds it."""

import dataclasses
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo.

    Attributes:
        box: `(4,)` float32, the left edge, the top edge, the width and the height in pixels. A box may leave the photo.
        landmarks: `(5, 2)` float32 of x and y in pixels, in the order of `data.align`: the eye on the left side of the
            photo, the eye on the right side, the tip of the nose, and the left and right corners of the mouth.
        score: confidence of the detector. Scores of different detectors cannot be compared.

    Examples:
        >>> face = detector(read_photo("party/group.jpg"))[0]
        >>> face.box.tolist(), face.landmarks.shape, face.score
        ([10, 20, 112, 112], (5, 2), 0.9)
        >>> round(face.eye_distance, 1)
        35.2
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float

    @property
    def eye_distance(self) -> float:
        """Distance between the eyes in pixels."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    def moved(self, scale: float, x: float = 0.0, y: float = 0.0) -> "Face":
        """Returns the face in a photo that is enlarged by `scale`, then shifted by `(x, y)` pixels."""
        # The center of the first pixel is at 0, its corner at -0.5.
        landmarks = (self.landmarks + 0.5) * scale - 0.5 + (x, y)
        box = self.box * scale + (x, y, 0, 0)
        return Face(box.astype(np.float32), landmarks.astype(np.float32), self.score)


class Detector(Protocol):
    """A function that finds the faces of a photo. `YuNet`, `MTCNN` and `SCRFD` are detectors.

    A function with the same argument and result is a detector too.

    Raises:
        ValueError: if the photo has another shape.

    Examples:
        The faces of an own network:

        >>> def my_detector(photo):
        ...     return [Face(box, landmarks, score) for box, landmarks, score in my_network(photo)]
    """

    def __call__(self, photo: np.ndarray, /) -> list[Face]:
        """Finds the faces of one photo.

        Args:
            photo: RGB pixels, uint8 `(height, width, 3)`.

        Returns:
            The faces, the highest score first.
        """
        ...


def remove_duplicates(faces: list[Face], max_overlap: float) -> list[Face]:
    """Keeps the face with the highest score of those that overlap (non-maximum suppression).

    Args:
        faces: faces of one photo in any order.
        max_overlap: largest area of the intersection of two boxes, relative to the smaller box.

    Returns:
        The kept faces, the highest score first.
    """
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_overlap(face.box, other.box) <= max_overlap for other in kept):
            kept.append(face)
    return kept


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the area of the intersection of two boxes, relative to the smaller box."""
    start = np.maximum(first[:2], second[:2])
    end = np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    smaller = min(first[2] * first[3], second[2] * second[3])
    return float(np.prod(np.maximum(end - start, 0)) / max(smaller, 1e-6))
