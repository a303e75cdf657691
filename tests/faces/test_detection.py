"""Detection in photos of any size, on photos with squares for faces."""

import cv2
import numpy as np
import pytest
from faces.detectors import SquareDetector
from faces.detectors import face_in
from faces.detectors import photo_with_squares

from keras_arcface.faces import detect
from keras_arcface.faces.face import remove_duplicates


def boxes(faces):
    return sorted(tuple(np.round(face.box).astype(int).tolist()) for face in faces)


def test_landmarks_are_those_of_the_original_photo():
    photo = photo_with_squares((400, 200, 160), size=(1000, 1600))
    (face,) = detect(photo, SquareDetector(), max_side=200)
    expected = face_in([400, 200, 160, 160])
    np.testing.assert_allclose(face.landmarks, expected.landmarks, atol=4)
    np.testing.assert_allclose(face.box, expected.box, atol=8)


def test_reduction_is_exact_in_the_mean():
    """A map that ignores that pixels have a size would shift all landmarks by half a pixel of the copy."""
    shifts = []
    for offset in range(8):
        photo = photo_with_squares((400 + offset, 240 + offset, 160), size=(1000, 1600))
        (face,) = detect(photo, SquareDetector(), max_side=200)
        shifts.append(
            face.landmarks.mean(axis=0) - face_in([400 + offset, 240 + offset, 160, 160]).landmarks.mean(axis=0)
        )
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=1)


def test_tiny_faces_are_found_in_tiles_only_once():
    squares = [(10, 10, 12), (395, 290, 12), (790, 585, 12), (200, 100, 150)]
    photo = photo_with_squares(*squares, size=(600, 810))
    assert (
        boxes(detect(photo, SquareDetector(), max_side=200)) == [(202, 101, 146, 146)]
        or len(detect(photo, SquareDetector(), max_side=200)) == 1
    )
    found = detect(photo, SquareDetector(), max_side=200, tiles=True)
    assert len(found) == 4
    assert {(10, 10, 12, 12), (395, 290, 12, 12), (790, 585, 12, 12)} < set(boxes(found))
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)


def test_small_photos_are_not_changed():
    seen = []

    def detector(photo):
        seen.append(photo)
        return []

    photo = photo_with_squares(size=(100, 90))
    assert detect(photo, detector, tiles=True) == []
    assert len(seen) == 1
    assert seen[0] is photo


def test_a_long_strip_keeps_one_pixel():
    seen = []
    detect(np.zeros((2, 3000, 3), np.uint8), lambda photo: seen.append(photo.shape) or [], max_side=100)
    assert seen == [(1, 100, 3)]


@pytest.mark.parametrize("photo", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_other_pixels_are_refused(photo):
    with pytest.raises(ValueError, match=r"photo must be uint8 \(height, width, 3\)"):
        detect(photo, SquareDetector())


def test_of_overlapping_faces_the_best_is_kept():
    faces = [face_in([0, 0, 10, 10], 0.5), face_in([1, 1, 10, 10], 0.9), face_in([20, 0, 10, 10], 0.4)]
    assert [face.score for face in remove_duplicates(faces, 0.5)] == [0.9, 0.4]
    # A part of a face, within the box of the whole face.
    assert len(remove_duplicates([face_in([0, 0, 100, 100], 0.5), face_in([40, 40, 10, 10], 0.9)], 0.5)) == 1


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.3])
def test_a_moved_face_is_where_the_resized_pixels_are(scale):
    photo = photo_with_squares((60, 40, 80))
    large = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    (found,) = SquareDetector()(large)
    moved = SquareDetector()(photo)[0].moved(scale)
    np.testing.assert_allclose(found.landmarks, moved.landmarks, atol=1.1)
