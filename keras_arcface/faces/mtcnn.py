"""Detection of faces by MTCNN, which aligned most published training sets."""

import numpy as np

from keras_arcface._optional import optional_import
from keras_arcface.faces.face import Face

_MIN_SIDE = 20  # of a face in pixels
_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # sides of the photo


class MTCNN:
    """Three cascaded networks of the package `mtcnn`, whose weights are in the package. They run in TensorFlow.

    Most published training sets are aligned by MTCNN. It needs far more time than `YuNet`. It finds faces of at least
    20 pixels.

    Raises:
        ModuleNotFoundError: if `mtcnn` is not installed. Install it with `pip install 'keras-arcface[mtcnn]'`.

    Examples:
        >>> detector = MTCNN()  # doctest: +SKIP
        >>> faces = detector(read_photo("party/group.jpg"))

    References:
        - [Zhang et al. 2016](https://arxiv.org/abs/1604.02878)
    """

    def __init__(self):
        with optional_import("mtcnn", "MTCNN"):
            import mtcnn
        self._network = mtcnn.MTCNN()

    def __call__(self, photo: np.ndarray) -> list[Face]:
        """Finds the faces of one photo. See `Detector`."""
        if min(photo.shape[:2]) < _MIN_SIDE:
            return []
        # With another `min_face_size`, mtcnn 1.0 builds a wrong pyramid, and returns no faces for the resulting error.
        found = self._network.detect_faces(photo, min_face_size=_MIN_SIDE, fit_to_image=False)
        faces = [
            Face(
                np.array(face["box"], np.float32),
                np.array([face["keypoints"][point] for point in _POINTS], np.float32),
                float(face["confidence"]),
            )
            for face in found
        ]
        return sorted(faces, key=lambda face: -face.score)

    def __repr__(self) -> str:
        return "MTCNN()"

    def __reduce__(self):
        return type(self), ()
