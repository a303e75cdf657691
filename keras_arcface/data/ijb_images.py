"""Images, landmarks and templates of IJB-B and IJB-C in the layout of InsightFace."""

from pathlib import Path

import cv2
import numpy as np

from keras_arcface._alignment import align
from keras_arcface._arguments import check_choice
from keras_arcface._image_files import ImageFiles
from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface.data import encoded_images


class IjbImages:
    """Base class of the sets of IJB-B and IJB-C. Slicing a set returns aligned faces.

    It reads `meta/<name>_face_tid_mid.txt`, `meta/<name>_name_5pts_score.txt` and the images in `loose_crop/`.
    Arguments and attributes are those of `IjbSet`.
    """

    def __init__(self, directory, name: str | None, size: int, undetected: str, follow_links: bool):
        check_choice("undetected", undetected, ("raise", "skip", "crop"))
        self.directory, self.size = Path(directory), size
        self._files = ImageFiles(self.directory / "loose_crop", follow_links)
        self.skipped: list[str] = []
        self._skipped_templates = np.empty(0, np.int64)
        self._meta = self.directory / "meta"
        self._name = _find_name(self._meta) if name is None else name
        landmarks_path = self._meta / f"{self._name}_name_5pts_score.txt"
        self._read_images(self._meta / f"{self._name}_face_tid_mid.txt", landmarks_path)
        self.detected = _has_landmarks(self.landmarks)
        if not self.detected.all() and undetected == "raise":
            row = np.argmin(self.detected)
            raise ValueError(
                f"{landmarks_path}, line {row + 1}: {self.names[row]} has no detected face. Expected: landmarks, or "
                'undetected="skip" to skip such images, or undetected="crop" to use the center of the loose crop '
                f"without alignment. Received: {np.sum(~self.detected)} of {len(self)} images without a detected face, "
                f"here with landmarks {self.landmarks[row].tolist()}"
            )
        if not self.detected.all() and undetected == "skip":
            self._skip_undetected()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Returns the RGB faces of a slice of n images, uint8 array `(n, size, size, 3)`."""
        return np.stack([self._read_face(row) for row in range(*rows.indices(len(self)))])

    def _read_images(self, path: Path, landmarks_path: Path) -> None:
        self.names, numbers = read_table(path, 2, np.int64)
        self.templates, self.media = numbers.T
        names, values = read_table(landmarks_path, 11, np.float32)
        for line, (expected, received) in enumerate(zip(self.names, names, strict=False), start=1):
            if expected != received:
                raise ValueError(
                    f"{landmarks_path}, line {line}: expected image {cut(expected)}, as in {path.name}. "
                    f"Received: {cut(received)}"
                )
        if len(self.names) != len(names):
            raise ValueError(
                f"{landmarks_path} must have {len(self.names)} images, as {path.name}. Received: {len(names)} images"
            )
        self.landmarks, self.detector_scores = values[:, :10].reshape(-1, 5, 2), values[:, 10]

    def _skip_undetected(self) -> None:
        kept = np.flatnonzero(self.detected)
        self.skipped = [self.names[row] for row in np.flatnonzero(~self.detected)]
        self._skipped_templates = self.templates[~self.detected]
        self.names = [self.names[row] for row in kept]
        self.templates, self.media = self.templates[kept], self.media[kept]
        self.landmarks, self.detector_scores = self.landmarks[kept], self.detector_scores[kept]
        self.detected = self.detected[kept]

    def _read_face(self, row: int) -> np.ndarray:
        path = self._files.root / self.names[row]
        encoded = encoded_images.to_jpeg_or_png(self._files.read(self.names[row]), str(path))
        image = encoded_images.decode(encoded, str(path))
        if self.detected[row]:
            return align(image, self.landmarks[row], self.size)
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        square = image[top : top + side, left : left + side]
        return cv2.resize(square, (self.size, self.size), interpolation=cv2.INTER_AREA)


def _find_name(meta: Path) -> str:
    found = sorted(meta.glob("*_face_tid_mid.txt"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{meta} must contain one file <name>_face_tid_mid.txt. Received: {[path.name for path in found]}"
        )
    return found[0].name.removesuffix("_face_tid_mid.txt")


def _has_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Returns the bool mask `(n,)` of the landmarks `(n, 5, 2)` that belong to a detected face."""
    is_finite = np.isfinite(landmarks).all(axis=(1, 2))
    is_marked_missing = (landmarks == -1).all(axis=2).any(axis=1)
    is_one_point = (landmarks == landmarks[:, :1]).all(axis=(1, 2))
    return is_finite & ~is_marked_missing & ~is_one_point


def read_table(path: Path, num_columns: int, dtype, has_names: bool = True) -> tuple[list[str], np.ndarray]:
    """Reads a table of numbers, with an optional first column of names.

    Returns:
        The list of names, and the numbers `(num_lines, num_columns)`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file of IJB-B or IJB-C. Received: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} must contain lines of {num_columns + has_names} fields. Received: an empty file")
    try:
        columns = range(1, num_columns + 1) if has_names else None
        numbers = np.loadtxt(path, dtype, comments=None, usecols=columns, ndmin=2, encoding="utf-8")
        names = []
        if has_names:
            with open(path, encoding="utf-8") as file:
                names = [line.split(maxsplit=1)[0] for line in file if not line.isspace()]
        if numbers.shape[1] != num_columns or (has_names and len(names) != len(numbers)):
            raise ValueError(f"{numbers.shape[1]} columns of numbers, {len(numbers)} lines and {len(names)} names")
    except (ValueError, IndexError) as error:
        _raise_for_invalid_line(path, num_columns, dtype, has_names)
        received = cut(str(error))
        raise ValueError(
            f"{path} must contain lines of {num_columns + has_names} fields. Received: {received}"
        ) from error
    return names, numbers


def _raise_for_invalid_line(path: Path, num_columns: int, dtype, has_names: bool) -> None:
    num_fields = num_columns + has_names
    with open(path, encoding="utf-8", errors="replace") as file:
        for line, text in enumerate(file, start=1):
            fields = text.split()
            if len(fields) != num_fields:
                received = short(text.rstrip())
                raise ValueError(f"{path}, line {line}: expected {num_fields} fields. Received: {received}")
            try:
                np.array(fields[has_names:]).astype(dtype)
            except (ValueError, OverflowError):
                received = short(text.rstrip())
                raise ValueError(f"{path}, line {line}: expected numbers. Received: {received}") from None
