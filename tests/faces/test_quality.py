"""Size, pose and sharpness of faces whose landmarks are projected from an average face."""

import cv2
import numpy as np
import pytest
from conftest import make_face
from faces.detectors import face_in

from keras_arcface import data
from keras_arcface._alignment import TEMPLATE
from keras_arcface.faces import Face
from keras_arcface.faces import Quality
from keras_arcface.faces import QualityLimits
from keras_arcface.faces import face_quality
from keras_arcface.faces.quality import _DEPTHS

CROP = make_face(0, 0, (112, 112))


def turned(yaw=0.0, pitch=0.0, roll=0.0, scale=1.0):
    """Returns the landmarks of an average face that is turned by angles in degrees, far from the camera."""
    points = np.column_stack([TEMPLATE, _DEPTHS])
    points = points - points.mean(axis=0)
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    rotated = points @ (about_z @ about_y @ about_x).T * scale
    return Face(np.array([0, 0, 1, 1], np.float32), (rotated[:, :2] + 100).astype(np.float32), 0.9)


@pytest.mark.parametrize("angle", [-50, -20, 0, 10, 40])
def test_yaw_and_pitch_of_an_average_face(angle):
    assert face_quality(turned(yaw=angle, scale=2), CROP).yaw == pytest.approx(angle, abs=3)
    assert face_quality(turned(yaw=angle), CROP).pitch == pytest.approx(0, abs=3)
    if abs(angle) <= 40:
        assert face_quality(turned(pitch=angle), CROP).pitch == pytest.approx(angle, abs=3)


def test_the_signs_of_the_angles():
    face = face_in([0, 0, 112, 112])
    face.landmarks[2, 0] += 8  # the nose points to the right of the photo
    assert face_quality(face, CROP).yaw > 10
    face = face_in([0, 0, 112, 112])
    face.landmarks[2, 1] += 6
    assert face_quality(face, CROP).pitch > 5


@pytest.mark.parametrize("roll", [-170, -30, 0, 15, 90])
def test_roll_is_clockwise_and_does_not_change_the_pose(roll):
    quality = face_quality(turned(yaw=20, roll=roll), CROP)
    straight = face_quality(turned(yaw=20), CROP)
    assert (quality.roll - straight.roll - roll + 180) % 360 - 180 == pytest.approx(0, abs=0.1)
    assert quality.yaw == pytest.approx(straight.yaw, abs=0.1)


def test_the_size_of_a_turned_face_is_not_that_of_its_eyes():
    frontal, turned_face = face_quality(turned(), CROP), face_quality(turned(yaw=60), CROP)
    assert frontal.size == pytest.approx(35.2, abs=0.2)
    assert turned(yaw=60).eye_distance < 20
    assert turned_face.size == pytest.approx(35.2, abs=2)


def test_blur_reduces_the_sharpness():
    blurred = cv2.GaussianBlur(CROP, (0, 0), 2)
    face = face_in([0, 0, 112, 112])
    assert face_quality(face, blurred).sharpness < face_quality(face, CROP).sharpness / 10


def test_limits_name_the_first_that_is_exceeded():
    quality = Quality(size=20, yaw=-40, pitch=10, roll=90, sharpness=100, score=0.8)
    assert QualityLimits().reason(quality) is None
    assert (
        QualityLimits(min_size=20, max_yaw=40, max_pitch=10, min_sharpness=100, min_score=0.8).reason(quality) is None
    )
    assert QualityLimits(min_size=21, max_yaw=30).reason(quality) == "size is below 21"
    assert QualityLimits(max_yaw=30).reason(quality) == "yaw is above 30 degrees"
    assert QualityLimits(min_sharpness=101).reason(quality) == "sharpness is below 101"
    assert QualityLimits(min_score=0.81).reason(quality) == "score is below 0.81"
    assert QualityLimits(min_norm=5).reason(quality) is None  # not computed yet


def test_the_quality_of_an_aligned_face():
    photo = cv2.resize(CROP, (224, 224))
    face = face_in([0, 0, 224, 224])
    quality = face_quality(face, data.align(photo, face.landmarks))
    assert quality.size == pytest.approx(70.5, abs=0.2)
    assert quality.yaw == pytest.approx(0, abs=1)
    assert quality.pitch == pytest.approx(0, abs=1)
    assert quality.roll == pytest.approx(0, abs=0.1)
