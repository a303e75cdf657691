"""Detectors for tests, and photos on which they find something."""

import cv2
import numpy as np
from conftest import encode
from conftest import make_face

from keras_arcface._alignment import TEMPLATE
from keras_arcface.faces import Face

MARK = 255, 0, 255
RED, GREEN, BLUE = (255, 20, 20), (20, 255, 20), (20, 20, 255)
DARK_RED = (200, 60, 60)


class SquareDetector:
    """Finds magenta squares of at least four pixels, as faces whose landmarks lie in the square as in the template."""

    def __call__(self, photo):
        mask = ((photo[..., 0] > 180) & (photo[..., 1] < 80) & (photo[..., 2] > 180)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        boxes = [stat[:4].astype(np.float32) for stat in stats[1:] if min(stat[2:4]) >= 4]
        return [face_in(box, score=min(1, float(box[2]) / 200)) for box in sorted(boxes, key=lambda box: -box[2])]

    def __repr__(self):
        return "SquareDetector()"


class ColorDetector:
    """Finds bright squares, from left to right."""

    def __call__(self, photo):
        _, _, stats, _ = cv2.connectedComponentsWithStats((photo.max(axis=2) > 150).astype(np.uint8))
        return [face_in(stat[:4]) for stat in sorted(stats[1:], key=lambda stat: stat[0])]


def photo_of(*colors):
    """Returns a photo with a square of each color, for `ColorDetector`, as a PNG file."""
    photo = np.zeros((60, 60 * max(1, len(colors)), 3), np.uint8)
    for number, color in enumerate(colors):
        photo[10:50, 60 * number + 10 : 60 * number + 50] = color
    return encode(photo)


def face_in(box, score=0.9):
    """Returns a face whose template fills a box."""
    box = np.asarray(box, np.float32)
    landmarks = ((TEMPLATE + 0.5) / 112 * box[2:] + box[:2] - 0.5).astype(np.float32)
    return Face(box, landmarks, score)


def photo_with_squares(*squares, size=(300, 400)):
    """Returns a photo with magenta squares `(left, top, side)`."""
    photo = make_face(0, 0, size) // 3
    for left, top, side in squares:
        photo[top : top + side, left : left + side] = MARK
    return photo
