"""Alignment of faces to a template of five landmarks."""

import cv2
import numpy as np

from keras_arcface._arguments import check
from keras_arcface._choices import ALIGNMENTS

# Landmarks in a 112 x 112 crop of the published datasets, as (x, y): the eye on the left side of the image, the eye on
# the right side, the nose, and the left and right corners of the mouth.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112


def check_alignment(alignment: str | None, image_size: tuple[int, int] | None = None) -> None:
    """Checks the argument `alignment` of a dataset or an exported model.

    Args:
        alignment: alignment to check: "five_points", "none", or None if it is not recorded.
        image_size: `(height, width)` of the faces, or None if it is not known.

    Raises:
        ValueError: if `alignment` has another value, or is "five_points" for images that are not square.
    """
    is_valid = alignment is None or alignment in ALIGNMENTS
    check("alignment", alignment, is_valid, '"five_points", "none" or None (not recorded)')
    if alignment == "five_points" and image_size is not None and image_size[0] != image_size[1]:
        raise ValueError(
            'image_size must be square with alignment="five_points", because `align` returns square images. '
            f"Received: image_size={image_size}"
        )


def align(image, landmarks, size: int = 112) -> np.ndarray:
    """Rotates, scales and shifts a face so that its landmarks match the template.

    Networks that are trained with the datasets of InsightFace require faces that are aligned in this way. The transform
    is the similarity (without shear and mirroring) that minimizes the squared distance between the landmarks and the
    template. Pixels outside the image become black.

    Args:
        image: uint8 array `(height, width, 3)` or `(height, width)`.
        landmarks: `(5, 2)` array of x and y in pixels: the eye on the left side of the image, the eye on the right
            side, the tip of the nose, and the left and right corners of the mouth.
        size: height and width of the aligned face, in pixels. The template is scaled to this size.

    Returns:
        uint8 array `(size, size, 3)` or `(size, size)`.

    Raises:
        ValueError: if an array has another shape, or if the landmarks are not finite or are all the same point.

    Examples:
        >>> photo = np.zeros((200, 150, 3), "uint8")
        >>> left_eye, right_eye, nose, left_mouth, right_mouth = (50, 80), (95, 80), (72, 105), (54, 131), (91, 131)
        >>> photo[75:86, 45:56] = 255  # a white square at the left eye
        >>> face = align(photo, [left_eye, right_eye, nose, left_mouth, right_mouth])
        >>> face.shape
        (112, 112, 3)
        >>> face[52, 38], face[52, 73]  # the left eye is at (38, 52), the right one at (73, 52)
        (array([255, 255, 255], dtype=uint8), array([0, 0, 0], dtype=uint8))

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.1
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
        raise ValueError(
            "image must be a uint8 array (height, width, 3) or (height, width). "
            f"Received: image.dtype={image.dtype}, image.shape={image.shape}"
        )
    return cv2.warpAffine(
        image, similarity_transform(landmarks, size), (size, size), flags=cv2.INTER_LINEAR, borderValue=0
    )


def similarity_transform(landmarks, size: int = 112) -> np.ndarray:
    """Returns the similarity transform that `align` applies to a face.

    Args:
        landmarks: `(5, 2)` array of x and y in pixels, in the order of `align`.
        size: height and width of the aligned face.

    Returns:
        `(2, 3)` matrix that maps `(x, y, 1)` in the image to `(x, y)` in the aligned face.

    Raises:
        ValueError: if the landmarks have another shape, are not finite, or are all the same point.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != (5, 2) or not np.isfinite(landmarks).all():
        raise ValueError(
            "landmarks must be 5 finite points (x, y). "
            + f"Received: landmarks.shape={landmarks.shape}"
            + ("" if landmarks.shape != (5, 2) else f", landmarks={landmarks.tolist()}")
        )
    if (landmarks == landmarks[0]).all():
        raise ValueError(f"landmarks must not all be the same point. Received: landmarks={landmarks.tolist()}")
    # With points as complex numbers, a similarity is z -> a z + b, and the least-squares solution for a is a quotient.
    source, target = landmarks @ [1, 1j], TEMPLATE @ [1, 1j] * size / TEMPLATE_SIZE
    centered = source - source.mean()
    a = np.vdot(centered, target) / np.vdot(centered, centered)
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
