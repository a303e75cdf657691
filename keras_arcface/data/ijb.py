"""Reader of IJB-B and IJB-C in the layout of InsightFace, with loose crops, landmarks, templates and pairs."""

import logging
from pathlib import Path

import cv2
import numpy as np

from keras_arcface._alignment import align
from keras_arcface._arguments import check_choice
from keras_arcface._image_files import ImageFiles
from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface.data import encoded_images

_log = logging.getLogger(__name__)


class IjbSet:
    """Images, templates and pairs of IJB-B or IJB-C. Slicing the set returns aligned faces.

    `directory` has the layout of InsightFace: `meta/<name>_face_tid_mid.txt` (image, template, medium),
    `meta/<name>_template_pair_label.txt` (template, template, 1 or 0), `meta/<name>_name_5pts_score.txt` (image, ten
    coordinates, detector score), and the images in `loose_crop/`. `keras_arcface.evaluation.embed_images` accepts the
    set.

    Args:
        directory: path of the directory of the set.
        name: `"ijbb"` or `"ijbc"`. None selects the name whose files exist.
        size: height and width of the aligned faces, in pixels.
        undetected: treatment of images without a detected face. Their landmarks are -1, not finite, or all the same
            point. "raise" raises an error. "skip" skips these images and the pairs of templates without a remaining
            image. "crop" uses the central square of the loose crop, resized but not aligned, because the files contain
            no boxes, and a loose crop is a box with a margin. The files of InsightFace have landmarks for all images.
            Skipping makes the results too good, so report the number of skipped images with them.
        follow_links: whether to follow links to images outside of `loose_crop`. If false, such an image raises an error
            when it is read. Links within the folder are always followed.

    Attributes:
        names: names of the n images.
        templates: template id of each image, `(n,)` int64 array.
        media: medium id of each image, `(n,)` int64 array.
        landmarks: landmarks in pixels of the loose crop, `(n, 5, 2)` float32 array.
        detector_scores: score of the face detector for each image, `(n,)` float32 array.
        pairs: pairs of template ids, `(m, 2)` int64 array.
        same: mask of the genuine pairs, `(m,)` bool array.
        detected: mask of the images with a detected face, which are aligned, `(n,)` bool array.
        skipped: names of the skipped images.
        skipped_pairs: number of skipped pairs.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a line is invalid, two files have different images, an image has no detected face and
            `undetected` is "raise", or no pair remains. The message names the file and line.

    Examples:
        >>> ijbc = IjbSet("IJBC", size=32)
        >>> ijbc
        <IjbSet('IJBC'): 8 images of 4 templates, 4 pairs>
        >>> faces = ijbc[:2]
        >>> faces.shape
        (2, 32, 32, 3)
        >>> embeddings = embed_images(embedder, ijbc)
        >>> ids, pooled = pool_templates(embeddings, ijbc.templates, ijbc.media)
        >>> result = verify_templates(pooled, ids, ijbc.pairs, ijbc.same, fars=[0.5])

    References:
        - [IARPA Janus Benchmark - C](https://doi.org/10.1109/ICB2018.2018.00033)
    """

    def __init__(
        self, directory, name: str | None = None, size: int = 112, undetected: str = "raise", follow_links: bool = False
    ):
        check_choice("undetected", undetected, ("raise", "skip", "crop"))
        self.directory, self.size = Path(directory), size
        self._files = ImageFiles(self.directory / "loose_crop", follow_links)
        self.skipped: list[str] = []
        self.skipped_pairs = 0
        meta = self.directory / "meta"
        if name is None:
            name = _find_name(meta)
        landmarks_path = meta / f"{name}_name_5pts_score.txt"
        self._read_images(meta / f"{name}_face_tid_mid.txt", landmarks_path)
        self._read_pairs(meta / f"{name}_template_pair_label.txt")
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

    def __repr__(self) -> str:
        templates = len(np.unique(self.templates))
        return (
            f"<IjbSet({str(self.directory)!r}): {len(self):,} images of {templates:,} templates, "
            f"{len(self.pairs):,} pairs>"
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Returns the RGB faces of a slice of n images, uint8 array `(n, size, size, 3)`."""
        return np.stack([self._read_face(row) for row in range(*rows.indices(len(self)))])

    def _read_images(self, path: Path, landmarks_path: Path) -> None:
        self.names, numbers = _read_table(path, 2, np.int64)
        self.templates, self.media = numbers.T
        names, values = _read_table(landmarks_path, 11, np.float32)
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

    def _read_pairs(self, path: Path) -> None:
        _, numbers = _read_table(path, 3, np.int64, has_names=False)
        self.pairs, self.same = numbers[:, :2], numbers[:, 2] == 1
        invalid = np.flatnonzero(~np.isin(numbers[:, 2], (0, 1)))
        if len(invalid):
            raise ValueError(
                f"{path}, line {invalid[0] + 1}: expected 1 or 0 as the last field. Received: {numbers[invalid[0], 2]}"
            )

    def _skip_undetected(self) -> None:
        kept = np.flatnonzero(self.detected)
        self.skipped = [self.names[row] for row in np.flatnonzero(~self.detected)]
        self.names = [self.names[row] for row in kept]
        self.templates, self.media = self.templates[kept], self.media[kept]
        self.landmarks, self.detector_scores = self.landmarks[kept], self.detector_scores[kept]
        self.detected = self.detected[kept]
        has_images = np.isin(self.pairs, self.templates).all(axis=1)
        self.skipped_pairs = int(np.sum(~has_images))
        self.pairs, self.same = self.pairs[has_images], self.same[has_images]
        if not len(self.pairs):
            raise ValueError(
                f"{self.directory} must have a pair of templates with detected faces. Received: {len(self.skipped)} "
                f"images without a detected face, {len(self)} with one"
            )
        _log.warning(
            "%s: skipped %d images without a detected face, and %d pairs of templates without a remaining image",
            *(self.directory, len(self.skipped), self.skipped_pairs),
        )

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


def _read_table(path: Path, num_columns: int, dtype, has_names: bool = True) -> tuple[list[str], np.ndarray]:
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
