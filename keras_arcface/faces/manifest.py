"""The manifest of aligned photos: one line for each face, and for each photo without one."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from keras_arcface._files import append
from keras_arcface._files import write_atomically
from keras_arcface._messages import cut
from keras_arcface.faces.pipeline import PhotoFace

MANIFEST = "manifest.csv"
COLUMNS = (
    *("photo", "faces", "face", "crop", "reason", "score", "size", "yaw", "pitch", "roll", "sharpness"),
    *("x", "y", "width", "height"),
    *(f"{name}_{axis}" for name in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for axis in "xy"),
)


class Entry(NamedTuple):
    """What the manifest says about a face, or about a photo without a face.

    Attributes:
        photo: path of the photo, relative to the folder of the photos, with slashes.
        crop: path of the crop, relative to the folder of the manifest; empty for a photo without a face.
        reason: why the face or the photo was rejected; empty for a kept face.
        score: confidence of the detector, None for a photo without a face.
    """

    photo: str
    crop: str
    reason: str
    score: float | None

    @property
    def group(self) -> str:
        """The reason without what is particular to the photo."""
        return self.reason.partition(":")[0]


def rows_of_photo(photo: str, faces: list[tuple[PhotoFace, str, str]], reason: str = "") -> str:
    """Returns the lines of a photo.

    Args:
        photo: relative path of the photo.
        faces: each face with the relative path of its crop and the reason why it was rejected.
        reason: why the photo has no face.
    """
    rows: list[list[object]] = []
    for number, (face, crop, rejected) in enumerate(faces):
        quality = face.quality
        figures = (quality.score, quality.size, quality.yaw, quality.pitch, quality.roll, quality.sharpness)
        places = [*face.box.tolist(), *face.landmarks.ravel().tolist()]
        numbers = [f"{value:.4g}" for value in figures] + [f"{value:.2f}" for value in places]
        rows.append([photo, len(faces), number, crop, rejected, *numbers])
    if not faces:
        rows = [[photo, 0, "", "", reason, *[""] * (len(COLUMNS) - 5)]]
    return _to_lines(rows)


def start(path: Path) -> None:
    """Writes the heading of a new manifest."""
    write_atomically(path, _to_lines([COLUMNS]))


def add(path: Path, rows: str) -> None:
    """Appends the lines of a photo."""
    append(path, rows)


def read(path: Path) -> tuple[list[Entry], int]:
    """Reads the photos of a manifest whose lines are all there. A killed process may leave only some of the last one.

    Returns:
        The entries, and the number of bytes of their lines.

    Raises:
        ValueError: if the file is not a manifest. The message names the line.
    """
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
    heading = _to_lines([COLUMNS]).encode()
    if not content.startswith(heading):
        raise ValueError(f"{path} must be a manifest of aligned faces. Received: another first line")
    entries: list[Entry] = []
    waiting: list[Entry] = []
    complete = size = len(heading)
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = next(csv.reader([line.decode("utf-8")]), [])
            faces, score = int(row[1]), float(row[5]) if row[5] else None
            is_valid = len(row) == len(COLUMNS) and all(entry.photo == row[0] for entry in waiting)
        except (ValueError, IndexError, csv.Error):
            is_valid = False
        if not is_valid:
            raise ValueError(
                f"{path}, line {number}: expected the {len(COLUMNS)} values of a face. Received: {cut(str(line), 200)}"
            )
        size += len(line) + 1
        waiting.append(Entry(row[0], row[3], row[4], score))
        if len(waiting) == max(1, faces):
            entries += waiting
            waiting, complete = [], size
    return entries, complete


def _to_lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
