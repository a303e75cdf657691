"""IJB-B and IJB-C as they are handed on for face recognition: loose crops, landmarks, templates and pairs."""

from pathlib import Path

import cv2
import numpy as np

from keras_arcface.data.alignment import align


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

    Attributes:
        names: n names of images.
        templates, media: `(n,)` int64, to which template and medium an image belongs.
        landmarks: `(n, 5, 2)` float32, in pixels of the loose crop.
        detector_scores: `(n,)` float32.
        pairs: `(m, 2)` int64, pairs of templates.
        same: `(m,)` bool.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: naming file and line, if a line is of another form, or two files disagree about the images.

    >>> ijbc = IjbSet("IJBC")
    >>> # embeddings = embed_images(model, ijbc)
    >>> # ids, pooled = pool_templates(embeddings, ijbc.templates, ijbc.media)
    >>> # result = verify_templates(pooled, ids, ijbc.pairs, ijbc.same)
    """

    def __init__(self, directory, name: str | None = None, size: int = 112):
        self.directory, self.size = Path(directory), size
        meta = self.directory / "meta"
        if name is None:
            found = sorted(meta.glob("*_face_tid_mid.txt"))
            if len(found) != 1:
                raise FileNotFoundError(
                    f"{meta} must hold one file <name>_face_tid_mid.txt. Received: {[path.name for path in found]}"
                )
            name = found[0].name.removesuffix("_face_tid_mid.txt")
        faces = _rows(meta / f"{name}_face_tid_mid.txt", 3)
        points = _rows(meta / f"{name}_name_5pts_score.txt", 12)
        pairs = _rows(meta / f"{name}_template_pair_label.txt", 3)
        self.names = [face[0] for face in faces]
        for line, (face, point) in enumerate(zip(faces, points, strict=False), start=1):
            if face[0] != point[0]:
                raise ValueError(
                    f"{meta / f'{name}_name_5pts_score.txt'}, line {line}: expected image {face[0]}, as "
                    f"{name}_face_tid_mid.txt has it. Received: {point[0]}"
                )
        if len(faces) != len(points):
            raise ValueError(
                f"{meta}: {name}_face_tid_mid.txt has {len(faces)} images, {name}_name_5pts_score.txt {len(points)}"
            )
        self.templates, self.media = _numbers(faces, 1, np.int64, meta / f"{name}_face_tid_mid.txt").T
        values = _numbers(points, 1, np.float32, meta / f"{name}_name_5pts_score.txt")
        self.landmarks, self.detector_scores = values[:, :10].reshape(-1, 5, 2), values[:, 10]
        numbers = _numbers(pairs, 0, np.int64, meta / f"{name}_template_pair_label.txt")
        self.pairs, self.same = numbers[:, :2], numbers[:, 2].astype(bool)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Aligned RGB faces, uint8 `(len of the slice, size, size, 3)`."""
        return np.stack([self._face(row) for row in range(*rows.indices(len(self)))])

    def _face(self, row):
        path = self.directory / "loose_crop" / self.names[row]
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            if not path.is_file():
                raise FileNotFoundError(f"There is no image {path}")
            raise ValueError(f"{path} is not a readable image")
        return align(np.ascontiguousarray(image[:, :, ::-1]), self.landmarks[row], self.size)


def _rows(path: Path, fields: int) -> list[list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}")
    rows = []
    with open(path, encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            row = text.split()
            if len(row) != fields:
                raise ValueError(f"{path}, line {line}: expected {fields} fields. Received: {text.rstrip()[:80]!r}")
            rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty. Expected: lines of {fields} fields")
    return rows


def _numbers(rows, first_field, dtype, path) -> np.ndarray:
    try:
        return np.array([row[first_field:] for row in rows]).astype(dtype)
    except ValueError:
        for line, row in enumerate(rows, start=1):
            try:
                np.array(row[first_field:]).astype(dtype)
            except ValueError:
                raise ValueError(f"{path}, line {line}: expected numbers. Received: {' '.join(row)[:80]!r}") from None
        raise
