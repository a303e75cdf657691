"""Text files that list images and their labels: CSV, and the two `.lst` layouts of mxnet and InsightFace."""

import csv
import re
from pathlib import Path

import numpy as np

# Formats that TensorFlow decodes, and formats that OpenCV decodes.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp", ".jp2"),
)

_HEADING_OF_PATHS = {"path", "filepath", "imagepath", "file", "filename", "image", "images", "img", "name"}
_HEADING_OF_LABELS = {"label", "labels", "class", "classid", "id", "identity", "person", "personid", "name", "target"}
_INTEGER = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)  # also 3.0, as pandas and im2rec write it
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_LARGEST = np.iinfo(np.int64).max
_LST = "index<tab>label<tab>path (mxnet) or aligned<tab>path<tab>label (InsightFace)"


def read_csv(path: Path) -> tuple[list[str], np.ndarray, list[str] | None]:
    """Reads lines of `path,label`.

    Returns:
        Paths, `(n,)` int64 labels, and the names of the classes if labels are names.

    Raises:
        ValueError: naming file and line.
    """
    rows, lines = [], []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            for row in reader:
                if not row:
                    continue
                if len(row) != 2 or not all(cell.strip() for cell in row):
                    raise ValueError(f"expected path,label, received {','.join(row)[:80]!r}")
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
        except (ValueError, csv.Error) as error:  # a UnicodeDecodeError is a ValueError
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if rows and _is_heading(rows[0], rows[1:], f"{path}, line {lines[0]}"):
        del rows[0], lines[0]
    if not rows:
        raise ValueError(f"{path} lists no images. Expected: lines of path,label")
    paths, labels = map(list, zip(*rows, strict=True))
    if any(map(_is_image, labels)) and not any(map(_is_image, paths)):
        raise ValueError(
            f"{path}, line {lines[0]}: the label is the name of an image. Expected: path,label, in this order. "
            f"Received: {','.join(rows[0])[:80]!r}"
        )
    numeric = [_INTEGER.fullmatch(label) is not None for label in labels]
    if all(numeric):
        return paths, _integers(labels, lines, path), None
    if any(numeric):
        odd = numeric.index(not numeric[0])
        raise ValueError(
            f"{path}, line {lines[odd]}: label {labels[odd][:80]!r}, but line {lines[0]} has label {labels[0][:80]!r}. "
            "Expected: either numbers everywhere, or names everywhere. To use numbers as names, put a letter before "
            "them"
        )
    class_names, numbers = np.unique(labels, return_inverse=True)
    return paths, numbers.astype(np.int64), class_names.tolist()


def read_lst(path: Path) -> tuple[list[str], np.ndarray]:
    """Reads a `.lst` file, `index label path` of mxnet's im2rec or `aligned path label ...` of InsightFace.

    Returns:
        Paths, and `(n,)` int64 labels.

    Raises:
        ValueError: naming file and line.
    """
    paths, labels, lines, first = [], [], [], None
    try:
        content = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    for line, text in enumerate(content.split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        cells = [cell.strip() for cell in text.strip().split("\t")]
        layout, image, label = _layout(cells, where)
        if layout != (first or layout):
            raise ValueError(f"{where}: the layout is {layout}, but the lines before have {first}")
        first = layout
        paths.append(image)
        labels.append(label)
        lines.append(line)
    if not paths:
        raise ValueError(f"{path} lists no images. Expected: lines of {_LST}")
    return paths, _integers(labels, lines, path)


def _is_heading(first: list[str], others: list[list[str]], where: str) -> bool:
    """Whether the first row names the columns.

    It does if both its cells are words for that, or if it alone has neither the name of an image nor a number for a
    label. An ambiguous first row is an error, so that neither an image is lost nor a class added.
    """
    image, label = first
    if _INTEGER.fullmatch(label):
        return False
    words = [re.sub(r"[^a-z]", "", cell.lower()) for cell in first]
    known = words[0] in _HEADING_OF_PATHS, words[1] in _HEADING_OF_LABELS
    if all(known):
        return True
    numbers = bool(others) and all(_INTEGER.fullmatch(row[1]) for row in others)
    differs = bool(others) and not _is_image(image) and all(_is_image(row[0]) for row in others)
    if differs and (numbers or any(known)):
        return True
    if numbers or differs:
        what = "its label is not a number" if numbers else "its path is not the name of an image"
        raise ValueError(
            f"{where}: {what}, unlike all other lines. Expected: a heading such as path,label, or an image and its "
            f"label. Received: {','.join(first)[:80]!r}"
        )
    return False


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _layout(cells: list[str], where: str) -> tuple[str, str, str]:
    """The layout of a line of a `.lst` file, its path and its label."""
    numeric = [_NUMBER.fullmatch(cell) is not None for cell in cells]
    if len(cells) >= 3 and numeric[:3] == [True, False, True] and all(numeric[2:]):
        if cells[0] not in ("0", "1") or len(cells) not in (3, 7, 17):
            raise ValueError(
                f"{where}: expected aligned<tab>path<tab>label, with aligned 0 or 1, perhaps with 4 numbers of a box "
                f"and 10 of landmarks. Received: {len(cells)} fields, the first {cells[0][:40]!r}"
            )
        if cells[0] == "0":
            raise ValueError(
                f"{where}: aligned is 0: {cells[1]} is a photo, not an aligned face. Align it first "
                "(keras_arcface.data.align) and list the result"
            )
        return "aligned<tab>path<tab>label", cells[1], cells[2]
    if len(cells) >= 3 and all(numeric[:-1]) and not numeric[-1]:
        if len(cells) > 3:
            raise ValueError(
                f"{where}: expected one label for each image. Received: {len(cells) - 2} labels for {cells[-1]}"
            )
        return "index<tab>label<tab>path", cells[2], cells[1]
    received = "<tab>".join(cells)
    raise ValueError(f"{where}: expected {_LST}, with a path that is not a number. Received: {received[:80]!r}")


def _integers(labels: list[str], lines: list[int], path: Path) -> np.ndarray:
    values = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        whole = label.partition(".")[0]
        value = int(whole) if _INTEGER.fullmatch(label) and len(whole) < 40 else -1
        if not 0 <= value <= _LARGEST:
            raise ValueError(
                f"{path}, line {lines[row]}: expected an integer label from 0 to {_LARGEST}. Received: {label[:80]!r}"
            )
        values[row] = value
    return values
