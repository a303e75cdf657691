"""IJB-B and IJB-C as they are handed on for face recognition: loose crops, landmarks, templates and pairs."""

import logging
from pathlib import Path

import cv2
import numpy as np

from keras_arcface.data.alignment import align

_log = logging.getLogger(__name__)


class IjbSet:
    """The files of IJB-B or IJB-C in InsightFace's layout.

    Below `directory` are expected `meta/<name>_face_tid_mid.txt` (image, template, medium),
    `meta/<name>_template_pair_label.txt` (template, template, 1 or 0), `meta/<name>_name_5pts_score.txt` (image, ten
    coordinates, detector score), and the images in `loose_crop/`. Slices are aligned faces, so the set is what
    `keras_arcface.evaluation.embed_images` takes.

    Args:
        directory: of the set.
        name: `"ijbb"` or `"ijbc"`; None for the one whose files are there.
        size: of the aligned faces, in pixels.
        undetected: what to do with images in which no face was detected, whose landmarks are -1, not finite, or all in
            one place: "raise"; "skip" them, and the pairs of templates of which no image is left; or "crop", the middle
            square of the loose crop, resized and not aligned. The files hold no boxes: a loose crop is a box with a
            margin. InsightFace's own files have landmarks for all images. Skipping makes the figures better than they
            are: say with them what was skipped.

    Attributes:
        names: n names of images.
        templates, media: `(n,)` int64, to which template and medium an image belongs.
        landmarks: `(n, 5, 2)` float32, in pixels of the loose crop.
        detector_scores: `(n,)` float32.
        pairs: `(m, 2)` int64, pairs of templates.
        same: `(m,)` bool.
        detected: `(n,)` bool, whether a face was detected in an image, which then is aligned.
        skipped: names of the images that were skipped.
        skipped_pairs: number of pairs that were skipped.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: naming file and line, if a line is of another form, two files disagree about the images, or no face
            was detected in an image; also if no image or no pair is left.

    >>> ijbc = IjbSet("IJBC")
    >>> # embeddings = embed_images(model, ijbc)
    >>> # ids, pooled = pool_templates(embeddings, ijbc.templates, ijbc.media)
    >>> # result = verify_templates(pooled, ids, ijbc.pairs, ijbc.same)
    """

    def __init__(self, directory, name: str | None = None, size: int = 112, undetected: str = "raise"):
        if undetected not in ("raise", "skip", "crop"):
            raise ValueError(f'undetected expects "raise", "skip" or "crop". Received: {undetected!r}')
        self.directory, self.size = Path(directory), size
        meta = self.directory / "meta"
        if name is None:
            found = sorted(meta.glob("*_face_tid_mid.txt"))
            if len(found) != 1:
                raise FileNotFoundError(
                    f"{meta} must hold one file <name>_face_tid_mid.txt. Received: {[path.name for path in found]}"
                )
            name = found[0].name.removesuffix("_face_tid_mid.txt")
        files = {
            part: meta / f"{name}_{part}.txt" for part in ("face_tid_mid", "name_5pts_score", "template_pair_label")
        }
        self.names, numbers = _read(files["face_tid_mid"], 2, np.int64)
        self.templates, self.media = numbers.T
        names, values = _read(files["name_5pts_score"], 11, np.float32)
        for line, (expected, received) in enumerate(zip(self.names, names, strict=False), start=1):
            if expected != received:
                raise ValueError(
                    f"{files['name_5pts_score']}, line {line}: expected image {expected}, as "
                    f"{files['face_tid_mid'].name} has it. Received: {received}"
                )
        if len(self.names) != len(names):
            raise ValueError(
                f"{meta}: {files['face_tid_mid'].name} has {len(self.names)} images, "
                f"{files['name_5pts_score'].name} {len(names)}"
            )
        self.landmarks, self.detector_scores = values[:, :10].reshape(-1, 5, 2), values[:, 10]
        _, numbers = _read(files["template_pair_label"], 3, np.int64, named=False)
        self.pairs, self.same = numbers[:, :2], numbers[:, 2] == 1
        other = np.flatnonzero(~np.isin(numbers[:, 2], (0, 1)))
        if len(other):
            raise ValueError(
                f"{files['template_pair_label']}, line {other[0] + 1}: expected 1 or 0 as the last field. "
                f"Received: {numbers[other[0], 2]}"
            )
        self.detected = _has_landmarks(self.landmarks)
        self.skipped, self.skipped_pairs = [], 0
        if not self.detected.all() and undetected == "raise":
            row = np.argmin(self.detected)
            raise ValueError(
                f"{files['name_5pts_score']}, line {row + 1}: {self.names[row]} is an image without a detected face, "
                f"one of {np.sum(~self.detected)} of {len(self)}: its landmarks are {self.landmarks[row].tolist()}. "
                'Expected: landmarks, or undetected="skip", which leaves such images out, or undetected="crop", which '
                "takes the middle of the loose crop without aligning it"
            )
        if not self.detected.all() and undetected == "skip":
            self._skip_undetected()

    def _skip_undetected(self) -> None:
        kept = np.flatnonzero(self.detected)
        self.skipped = [self.names[row] for row in np.flatnonzero(~self.detected)]
        self.names = [self.names[row] for row in kept]
        for part in ("templates", "media", "landmarks", "detector_scores", "detected"):
            setattr(self, part, getattr(self, part)[kept])
        left = np.isin(self.pairs, self.templates).all(axis=1)
        self.skipped_pairs = int(np.sum(~left))
        self.pairs, self.same = self.pairs[left], self.same[left]
        if not len(self.pairs):
            raise ValueError(
                f"{self.directory}: no pair of templates is left. Received: {len(self.skipped)} images without a "
                f"detected face, {len(self)} with one"
            )
        _log.warning(
            "%s: skipped %d images without a detected face, and %d pairs of templates of which no image is left",
            *(self.directory, len(self.skipped), self.skipped_pairs),
        )

    def __repr__(self) -> str:
        templates = len(np.unique(self.templates))
        return (
            f"<IjbSet({str(self.directory)!r}): {len(self):,} images of {templates:,} templates, "
            f"{len(self.pairs):,} pairs>"
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Aligned RGB faces, uint8 `(len of the slice, size, size, 3)`."""
        return np.stack([self._face(row) for row in range(*rows.indices(len(self)))])

    def _face(self, row):
        path = self.directory / "loose_crop" / self.names[row]
        if not path.is_file():
            raise FileNotFoundError(f"There is no image {path}")
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path} is not a readable image")
        image = np.ascontiguousarray(image[:, :, ::-1])
        if self.detected[row]:
            return align(image, self.landmarks[row], self.size)
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        return cv2.resize(
            image[top : top + side, left : left + side], (self.size, self.size), interpolation=cv2.INTER_AREA
        )


def _has_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Which of `(n, 5, 2)` landmarks were detected."""
    finite = np.isfinite(landmarks).all(axis=(1, 2))
    marked = (landmarks == -1).all(axis=2).any(axis=1)
    in_one_place = (landmarks == landmarks[:, :1]).all(axis=(1, 2))
    return finite & ~marked & ~in_one_place


def _read(path: Path, fields: int, dtype, named: bool = True) -> tuple[list[str], np.ndarray]:
    """The names at the start of the lines, if they have one, and the numbers behind, `(lines, fields)`."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty. Expected: lines of {fields + named} fields")
    try:
        columns = range(1, fields + 1) if named else None
        numbers = np.loadtxt(path, dtype, comments=None, usecols=columns, ndmin=2, encoding="utf-8")
        names = [line.split(maxsplit=1)[0] for line in path.read_text("utf-8").splitlines()] if named else []
        if numbers.shape[1] != fields:
            raise ValueError
    except (ValueError, IndexError) as error:
        _name_bad_line(path, fields, dtype, named)
        raise ValueError(f"{path}: {error}") from error
    return names, numbers


def _name_bad_line(path: Path, fields: int, dtype, named: bool) -> None:
    with open(path, encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            row = text.split()
            if len(row) != fields + named:
                raise ValueError(
                    f"{path}, line {line}: expected {fields + named} fields. Received: {text.rstrip()[:80]!r}"
                )
            try:
                np.array(row[named:]).astype(dtype)
            except ValueError:
                raise ValueError(f"{path}, line {line}: expected numbers. Received: {text.rstrip()[:80]!r}") from None
