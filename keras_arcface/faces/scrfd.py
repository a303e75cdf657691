"""Detection of faces by SCRFD, the detector of InsightFace."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from keras_arcface._arguments import check_number
from keras_arcface._optional import optional_import
from keras_arcface.faces.face import Face
from keras_arcface.faces.face import remove_duplicates

_STRIDES = (8, 16, 32)
_ANCHORS = 2  # of each place
_OUTPUTS = 3 * len(_STRIDES)  # scores, boxes and landmarks
_SIDE = 640  # of the input, if the file does not fix it. InsightFace detects at this size
_MAX_OVERLAP = 0.6  # of two boxes, relative to the smaller one


class SCRFD:
    """Face detector of InsightFace with five landmarks, in ONNX Runtime.

    InsightFace publishes its files, such as `det_10g.onnx` and `det_500m.onnx` of its model packages, for
    non-commercial research only.

    A photo is reduced or enlarged to `side` pixels, so small faces of a large photo are not found. `detect` searches
    for them in tiles.

    Args:
        path: path of an ONNX file with five landmarks, whose nine outputs are those of InsightFace.
        min_score: lowest score of a face, in 0..1.
        side: height and width of the input, if the file does not fix them. A multiple of 32.

    Raises:
        FileNotFoundError: if `path` does not exist.
        ModuleNotFoundError: if `onnxruntime` is not installed.
        ValueError: if the file has other inputs or outputs.

    Examples:
        >>> detector = SCRFD("det_10g.onnx")  # doctest: +SKIP
        >>> faces = detector(read_photo("party/group.jpg"))

    References:
        - [Guo et al. 2021](https://arxiv.org/abs/2105.04714)
    """

    def __init__(self, path: str | os.PathLike, min_score: float = 0.5, side: int = _SIDE):
        check_number("min_score", min_score, lambda score: 0 <= score <= 1, "in [0, 1]")
        check_number("side", side, lambda side: side > 0 and side % 32 == 0, "a multiple of 32")
        self.path, self.min_score = Path(path), min_score
        if not self.path.is_file():
            raise FileNotFoundError(f"path must be the ONNX file of SCRFD. Received: path={str(path)!r}")
        with optional_import("onnx", "SCRFD"):
            import onnxruntime
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(self.path), providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime raises errors of many types
            raise ValueError(f"{path}: expected a model that ONNX Runtime can load. Received: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != _OUTPUTS:
            raise ValueError(
                f"{path}: expected SCRFD with five landmarks, which has 1 input and {_OUTPUTS} outputs. "
                f"Received: {len(inputs)} inputs and {len(outputs)} outputs"
            )
        fixed = inputs[0].shape[2]
        self.side = fixed if isinstance(fixed, int) else side

    def __call__(self, photo: np.ndarray) -> list[Face]:
        """Finds the faces of one photo. See `Detector`."""
        height, width = photo.shape[:2]
        scale = self.side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        shown = np.zeros((self.side, self.side, 3), np.uint8)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        shown[: size[1], : size[0]] = cv2.resize(photo, size, interpolation=interpolation)
        images = ((shown.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[np.newaxis]
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: images})
        faces = []
        for level, stride in enumerate(_STRIDES):
            scores, boxes, landmarks = (outputs[level + kind * len(_STRIDES)] for kind in range(3))
            scores = scores.reshape(-1)
            for index in np.flatnonzero(scores >= self.min_score):
                row, column = divmod(index // _ANCHORS, self.side // stride)
                center = np.array([column, row], np.float32) * stride
                edges = boxes.reshape(-1, 4)[index] * stride  # distances to the left, top, right and bottom
                box = np.concatenate([center - edges[:2], edges[:2] + edges[2:]])
                points = center + landmarks.reshape(-1, 5, 2)[index] * stride
                faces.append(Face(box, points, float(scores[index])).moved(max(height, width) / self.side))
        return remove_duplicates(faces, _MAX_OVERLAP)

    def __repr__(self) -> str:
        return f"SCRFD({self.path.name!r}, min_score={self.min_score}, side={self.side})"

    def __reduce__(self):
        return type(self), (self.path, self.min_score, self.side)
