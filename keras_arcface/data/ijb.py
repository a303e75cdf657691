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
        return align(np.ascontiguousarray(image[:, :, ::-1]), self.landmarks[row], self.size)


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
