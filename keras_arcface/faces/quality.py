"""Quality of a detected face, and limits below which it is rejected."""

import dataclasses

import cv2
import numpy as np

from keras_arcface._alignment import TEMPLATE
from keras_arcface._alignment import similarity_transform
from keras_arcface._arguments import check
from keras_arcface.faces.face import Face

# How far the landmarks of an average face are in front of its eyes, in pixels of the template, which has 35 pixels for
# the 63 mm between the eyes.
_DEPTHS = np.array([0.0, 0.0, 18.0, 4.0, 4.0])
_EYES_TO_MOUTH = 0.866  # distance between the eyes of the template, relative to that between the eyes and the mouth


@dataclasses.dataclass(frozen=True)
class Quality:
    """Quality of a face.

    Attributes:
        size: distance between the eyes in pixels of the photo. If the face is turned aside, it is computed from the
            distance between eyes and mouth. It is 35 in a crop of 112 x 112 pixels, and smaller faces are enlarged.
        yaw: turn to the side in degrees, 0 for a frontal face, positive if the nose points to the right of the photo.
        pitch: turn down in degrees, negative if the face looks up.
        roll: rotation in the plane of the photo in degrees, clockwise. `align` removes it.
        sharpness: variance of the Laplacian of the aligned crop in gray. It is low for blurred faces.
        score: confidence of the detector.
        norm: norm of the embedding, None before it is computed. It is low for bad images.

    Examples:
        >>> photo = read_photo("party/group.jpg")
        >>> face = detector(photo)[0]
        >>> face_quality(face, data.align(photo, face.landmarks)).score
        0.9
    """

    size: float
    yaw: float
    pitch: float
    roll: float
    sharpness: float
    score: float
    norm: float | None = None


@dataclasses.dataclass(frozen=True)
class QualityLimits:
    """Limits of the quality of a face. None for no limit.

    Args:
        min_size: lowest `Quality.size` in pixels.
        max_yaw: largest turn to the side in degrees, to both sides.
        max_pitch: largest turn up or down in degrees.
        min_sharpness: lowest variance of the Laplacian.
        min_score: lowest confidence of the detector.
        min_norm: lowest norm of the embedding.

    Raises:
        ValueError: if a limit is negative.

    Examples:
        >>> limits = QualityLimits(min_size=20, max_yaw=45)
        >>> quality = Quality(size=14.2, yaw=-3.0, pitch=2.0, roll=0.0, sharpness=310.0, score=0.93)
        >>> limits.reason(quality)
        'size is below 20'
    """

    min_size: float | None = None
    max_yaw: float | None = None
    max_pitch: float | None = None
    min_sharpness: float | None = None
    min_score: float | None = None
    min_norm: float | None = None

    def __post_init__(self) -> None:
        for name, limit in dataclasses.asdict(self).items():
            check(name, limit, limit is None or limit >= 0, "at least 0, or None for no limit")

    def reason(self, quality: Quality) -> str | None:
        """Returns why a face is rejected, or None if it is within all limits."""
        for name, limit in dataclasses.asdict(self).items():
            kind, _, attribute = name.partition("_")
            value = getattr(quality, attribute)
            if limit is None or value is None:
                continue
            if kind == "min" and value < limit:
                return f"{attribute} is below {limit:g}"
            if kind == "max" and abs(value) > limit:
                return f"{attribute} is above {limit:g} degrees"
        return None


def face_quality(face: Face, crop: np.ndarray) -> Quality:
    """Measures the quality of a face.

    The pose is that of an average face whose landmarks fit best, and is wrong by some degrees for others.

    Args:
        face: the face.
        crop: its aligned crop, uint8 `(size, size, 3)` of RGB.

    Returns:
        A `Quality` without the norm of an embedding.

    Raises:
        ValueError: if the landmarks are all the same point.

    Examples:
        >>> photo = read_photo("party/group.jpg")
        >>> face = detector(photo)[0]
        >>> quality = face_quality(face, data.align(photo, face.landmarks))
        >>> round(quality.size), round(quality.yaw)
        (35, 0)
    """
    eyes, mouth = face.landmarks[:2].mean(axis=0), face.landmarks[3:].mean(axis=0)
    yaw, pitch = _pose(face.landmarks)
    matrix = similarity_transform(face.landmarks)
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return Quality(
        size=max(face.eye_distance, _EYES_TO_MOUTH * float(np.linalg.norm(mouth - eyes))),
        yaw=yaw,
        pitch=pitch,
        roll=float(np.degrees(np.arctan2(-matrix[1, 0], matrix[0, 0]))),
        sharpness=float(cv2.Laplacian(gray, cv2.CV_64F).var()),
        score=face.score,
    )


def _pose(landmarks: np.ndarray) -> tuple[float, float]:
    """Returns yaw and pitch in degrees, from the rotation that maps an average face to the landmarks.

    The camera of the least squared distance is affine, `(2, 3)`. The nearest two rows of a rotation, up to a scale, are
    those of its singular vectors.
    """
    model = np.column_stack([TEMPLATE, _DEPTHS])
    upright = landmarks @ similarity_transform(landmarks)[:, :2].T
    camera = np.linalg.lstsq(model - model.mean(axis=0), upright - upright.mean(axis=0), rcond=None)[0].T
    left, _, right = np.linalg.svd(camera, full_matrices=False)
    yaw, pitch = np.degrees(np.arcsin(np.clip((left @ right)[:, 2], -1, 1)))
    return float(yaw), float(pitch)
