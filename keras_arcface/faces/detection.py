"""Detection in photos of any size."""

import cv2
import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface.faces.face import Detector
from keras_arcface.faces.face import Face
from keras_arcface.faces.face import remove_duplicates

MAX_SIDE = 1280  # of the copy in which faces are searched
_MAX_TILE_FACE = 48  # pixels in the reduced copy. Larger faces are found there, and a tile may show only a part of them
_MAX_OVERLAP = 0.5  # of two boxes, relative to the smaller one, for faces of different tiles


def detect(photo: np.ndarray, detector: Detector, max_side: int = MAX_SIDE, tiles: bool = False) -> list[Face]:
    """Finds the faces of a photo of any size.

    A larger photo is reduced, and the boxes and landmarks are those of the original photo. Faces that are tiny in the
    reduced copy are not found. With `tiles`, the detector also sees the photo in its full size, in overlapping tiles.

    Args:
        photo: RGB pixels, uint8 `(height, width, 3)`, such as the result of `read_photo`.
        detector: function from a photo to its faces, such as `YuNet()`.
        max_side: largest height and width of the copy, and of a tile.
        tiles: whether to search the photo in its full size too. The time is in proportion to the pixels.

    Returns:
        The faces, the highest score first.

    Raises:
        ValueError: if `max_side` is below 64, or `photo` is not uint8 `(height, width, 3)`.

    Examples:
        >>> detector = YuNet()  # doctest: +SKIP
        >>> photo = read_photo("party/group.jpg")
        >>> faces = detect(photo, detector)
        >>> crops = [data.align(photo, face.landmarks) for face in faces]
        >>> len(crops), crops[0].shape
        (2, (112, 112, 3))
    """
    check_integer("max_side", max_side, minimum=64)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise ValueError(
            f"photo must be uint8 (height, width, 3). Received: photo.dtype={photo.dtype}, photo.shape={photo.shape}"
        )
    height, width = photo.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return detector(photo)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    reduced = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    faces = [face.moved(1 / scale) for face in detector(reduced)]
    if tiles:
        # The tiles overlap, so that a face which is too small for the reduced copy is whole in one of them.
        for top in _starts(height, max_side):
            for left in _starts(width, max_side):
                tile = np.ascontiguousarray(photo[top : top + max_side, left : left + max_side])
                found = [face.moved(1.0, left, top) for face in detector(tile)]
                tiny = [face for face in found if max(face.box[2:]) * scale <= _MAX_TILE_FACE]
                faces += [face for face in tiny if not _is_cut(face, left, top, max_side, (height, width))]
        faces = remove_duplicates(faces, _MAX_OVERLAP)
    return faces


def _starts(length: int, side: int) -> list[int]:
    """Returns the first pixels of tiles, which overlap by at least a quarter."""
    if length <= side:
        return [0]
    count = -(-(length - side) // (side * 3 // 4)) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def _is_cut(face: Face, left: int, top: int, side: int, size: tuple[int, int]) -> bool:
    """Returns whether a face reaches an edge of its tile that is not an edge of the photo."""
    x, y, width, height = face.box
    return bool(
        (x <= left and left > 0)
        or (y <= top and top > 0)
        or (x + width >= left + side and left + side < size[1])
        or (y + height >= top + side and top + side < size[0])
    )
