"""Parsers of CSV and `.lst` files that list images and labels."""

import csv
import re
from pathlib import Path

import numpy as np

from keras_arcface._messages import cut

# Suffixes of the formats in `_image_headers`.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp")

_PATH_COLUMN_NAMES = {"path", "filepath", "imagepath", "file", "filename", "image", "images", "img", "name"}
_LABEL_COLUMN_NAMES = {"label", "labels", "class", "classid", "id", "identity", "person", "personid", "name", "target"}
_INTEGER = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)  # 3.0 too, as pandas and im2rec write integers
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_MAX_LABEL = np.iinfo(np.int64).max
_LST_LAYOUTS = "index<tab>label<tab>path (mxnet) or aligned<tab>path<tab>label (InsightFace)"


def read_csv(path: Path) -> tuple[list[str], np.ndarray, list[str] | None]:
    """Reads a CSV file with lines of `path,label`.

    Returns:
        The paths, the labels as `(n,)` int64 array, and the class names, or None if the labels are integers.

    Raises:
        ValueError: if a line is invalid. The message names the file and line.
    """
    rows, lines = [], []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            for row in reader:
                if not row:
                    continue
                if len(row) != 2 or not all(cell.strip() for cell in row):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: expected path,label. Received: {cut(','.join(row), 80)!r}"
                    )
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{path}, line {reader.line_num}: expected path,label, encoded as UTF-8. Received: {error}"
            ) from error
    if rows and _is_header(rows[0], rows[1:], f"{path}, line {lines[0]}"):
        del rows[0], lines[0]
    if not rows:
        raise ValueError(f"{path} must contain lines of path,label. Received: no such lines")
    paths, labels = map(list, zip(*rows, strict=True))
    if any(map(_is_image, labels)) and not any(map(_is_image, paths)):
        raise ValueError(
            f"{path}, line {lines[0]}: the label is the name of an image. Expected: path,label in this order. "
            f"Received: {cut(','.join(rows[0]), 80)!r}"
        )
    numeric = [_INTEGER.fullmatch(label) is not None for label in labels]
    if all(numeric):
        return paths, _to_integers(labels, lines, path), None
    if any(numeric):
        other = numeric.index(not numeric[0])
        raise ValueError(
            f"{path}, line {lines[other]}: labels must be all numbers or all names. To use numbers as names, add a "
            f"letter. Received: {cut(labels[other], 80)!r}, after {cut(labels[0], 80)!r} in line {lines[0]}"
        )
    class_names = sorted(set(labels))  # an array of texts would have the length of the longest one for each line
    indices = {name: index for index, name in enumerate(class_names)}
    return paths, np.array([indices[label] for label in labels], np.int64), class_names


def read_lst(path: Path) -> tuple[list[str], np.ndarray]:
    """Reads a `.lst` file in the layout `index label path` of mxnet or `aligned path label ...` of InsightFace.

    Returns:
        The paths, and the labels as `(n,)` int64 array.

    Raises:
        ValueError: if a line is invalid. The message names the file and line.
    """
    paths: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    first_layout = None
    try:
        content = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be encoded as UTF-8. Received: {error}") from error
    for line, text in enumerate(content.split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        cells = [cell.strip() for cell in text.strip().split("\t")]
        layout, image, label = _parse_lst_line(cells, where)
        if layout != (first_layout or layout):
            raise ValueError(f"{where}: expected {first_layout}, as in the lines before. Received: {layout}")
        first_layout = layout
        paths.append(image)
        labels.append(label)
        lines.append(line)
    if not paths:
        raise ValueError(f"{path} must contain lines of {_LST_LAYOUTS}. Received: no such lines")
    return paths, _to_integers(labels, lines, path)


def _is_header(first: list[str], others: list[list[str]], where: str) -> bool:
    """Returns whether the first row is a header.

    A header has common column names in both cells, or is the only row that has neither the name of an image nor a
    numeric label. An ambiguous first row raises an error, so that no image is lost and no class is added.
    """
    image, label = first
    if _INTEGER.fullmatch(label):
        return False
    words = [re.sub(r"[^a-z]", "", cell.lower()) for cell in first]
    is_column_name = words[0] in _PATH_COLUMN_NAMES, words[1] in _LABEL_COLUMN_NAMES
    if all(is_column_name):
        return True
    only_label_is_name = bool(others) and all(_INTEGER.fullmatch(row[1]) for row in others)
    only_path_is_no_image = bool(others) and not _is_image(image) and all(_is_image(row[0]) for row in others)
    if only_path_is_no_image and (only_label_is_name or any(is_column_name)):
        return True
    if only_label_is_name or only_path_is_no_image:
        difference = "the label is not a number" if only_label_is_name else "the path is not the name of an image"
        raise ValueError(
            f"{where}: {difference}, unlike in all other lines. Expected: a header such as path,label, or an image and "
            f"its label. Received: {cut(','.join(first), 80)!r}"
        )
    return False


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _parse_lst_line(cells: list[str], where: str) -> tuple[str, str, str]:
    """Returns the layout, the path and the label of a line of a `.lst` file."""
    numeric = [_NUMBER.fullmatch(cell) is not None for cell in cells]
    if len(cells) >= 3 and numeric[:3] == [True, False, True] and all(numeric[2:]):
        if cells[0] not in ("0", "1") or len(cells) not in (3, 7, 17):
            raise ValueError(
                f"{where}: expected aligned<tab>path<tab>label, where aligned is 0 or 1, optionally followed by 4 "
                f"numbers of a box and 10 of landmarks. Received: {len(cells)} fields, the first {cut(cells[0], 40)!r}"
            )
        if cells[0] == "0":
            raise ValueError(
                f"{where}: {cut(cells[1], 80)} must be an aligned face. Align it with keras_arcface.data.align. "
                "Received: aligned=0"
            )
        return "aligned<tab>path<tab>label", cells[1], cells[2]
    if len(cells) >= 3 and all(numeric[:-1]) and not numeric[-1]:
        if len(cells) > 3:
            raise ValueError(
                f"{where}: expected one label per image. Received: {len(cells) - 2} labels for {cut(cells[-1], 80)}"
            )
        return "index<tab>label<tab>path", cells[2], cells[1]
    received = cut("<tab>".join(cells), 80)
    raise ValueError(f"{where}: expected {_LST_LAYOUTS}, and a path that is not a number. Received: {received!r}")


def _to_integers(labels: list[str], lines: list[int], path: Path) -> np.ndarray:
    values = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        whole = label.partition(".")[0]
        value = int(whole) if _INTEGER.fullmatch(label) and len(whole) < 40 else -1
        if not 0 <= value <= _MAX_LABEL:
            raise ValueError(
                f"{path}, line {lines[row]}: expected an integer label from 0 to {_MAX_LABEL}. "
                f"Received: {cut(label, 80)!r}"
            )
        values[row] = value
    return values
