"""Brings a face to where the embedder expects it, by five landmarks."""

import cv2
import numpy as np

# Where the landmarks stand in a 112 x 112 crop of the published data sets: (x, y) of the eye on the left of the image,
# that on the right, the nose, and the corners of the mouth.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112
# What can be said of how faces were aligned: as `align` does it, or not at all.
ALIGNMENTS = ("five_points", "none")


def check_alignment(alignment: str | None, image_size: tuple[int, int] | None = None) -> None:
    """Checks a statement of how faces were aligned.

    Args:
        alignment: "five_points", "none", or None where it is not stated.
        image_size: `(height, width)` of the faces, where it is known.

    Raises:
        ValueError: if it is another word, or "five_points" of images that are not square, which `align` does not give.
    """
    if alignment is not None and alignment not in ALIGNMENTS:
        raise ValueError(f'alignment expects "five_points", "none" or None (not stated). Received: {alignment!r}')
    if alignment == "five_points" and image_size is not None and image_size[0] != image_size[1]:
        raise ValueError(
            'alignment="five_points" expects square images, as data.align gives them. Received: images of '
            f"{image_size[0]} x {image_size[1]} (height x width)"
        )


def align(image, landmarks, size: int = 112) -> np.ndarray:
    """Turns, scales and moves a face such that its landmarks come as near as they can to the template's.

    The transform is a similarity (no shear, no mirroring), the best in the sense of least squares. What lies outside
    the image becomes black.

    Args:
        image: uint8 array `(height, width, 3)`, or `(height, width)`.
        landmarks: `(5, 2)`, x and y in pixels: the eye on the left of the image, the eye on the right, the tip of the
            nose, the corner of the mouth on the left, that on the right.
        size: height and width of the result; the template is scaled to it.

    Returns:
        uint8 array `(size, size, 3)`, or `(size, size)`.

    Raises:
        ValueError: if the arrays are not of these shapes, or the landmarks are not finite or all in one place.

    Reference: Deng et al., ArcFace, arXiv 1801.07698, section 3.1.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
        raise ValueError(
            f"image expects a uint8 array (height, width, 3) or (height, width). Received: {image.dtype} {image.shape}"
        )
    return cv2.warpAffine(image, similarity(landmarks, size), (size, size), flags=cv2.INTER_LINEAR, borderValue=0)


def similarity(landmarks, size: int = 112) -> np.ndarray:
    """The transform that `align` applies: `(2, 3)`, from `(x, y, 1)` in the image to the crop. Same arguments."""
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != (5, 2) or not np.isfinite(landmarks).all():
        raise ValueError(
            f"landmarks expects 5 finite points (x, y). Received: an array of shape {landmarks.shape}"
            + ("" if landmarks.shape != (5, 2) else f", {landmarks.tolist()}")
        )
    if (landmarks == landmarks[0]).all():
        raise ValueError(f"landmarks expects points that differ. Received: five times {landmarks[0].tolist()}")
    # As complex numbers a similarity is z -> a z + b, and the best a is a quotient.
    source, target = landmarks @ [1, 1j], TEMPLATE @ [1, 1j] * size / TEMPLATE_SIZE
    centered = source - source.mean()
    a = np.vdot(centered, target) / np.vdot(centered, centered)
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
