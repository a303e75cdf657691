"""Runs examples/omniglot.py on tiny alphabets, and on those of Omniglot if they are there."""

import os
import re
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import omniglot
import pytest

SIZE = 56
OMNIGLOT = Path(os.environ.get("KERAS_ARCFACE_TEST_DATA", ""), "omniglot")


def write_character(folder, number, images=4):
    """Writes black dots on white, which differ between characters and are shifted between images, as 1-bit PNGs."""
    folder.mkdir(parents=True)
    dots = np.random.default_rng(number).random((6, 6)) < 0.4
    for image in range(images):
        paper = np.full((SIZE, SIZE), 255, np.uint8)
        paper[4:52, 4:52][np.kron(dots, np.ones((8, 8), bool))] = 0
        shifted = np.roll(paper, np.random.default_rng([number, image]).integers(-4, 5, 2), axis=(0, 1))
        cv2.imwrite(str(folder / f"{image}.png"), shifted, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert (folder / "0.png").read_bytes()[24] == 1, "bits per pixel"


def write_alphabets(folder, names):
    for number, name in enumerate(names):
        for character in range(3):
            write_character(folder / name / f"character{character:02d}", 10 * number + character)


def run(monkeypatch, capsys, *arguments):
    """Runs the script. Returns its last lines, and the figures of the table by name."""
    monkeypatch.setattr(sys, "argv", ["omniglot.py", *map(str, arguments)])
    omniglot.main()
    lines = capsys.readouterr().out.splitlines()[-4:]
    table = {
        name: tuple(map(float, row)) for line in lines for name, *row in re.findall(r"(.+?) {2,}(\S+)% +(\S+)%", line)
    }
    return lines, table


def search_pixels(files):
    """Returns Recall@1 and MAP@R in % of the black pixels, from their definitions."""
    images = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).reshape(28, 2, 28, 2).mean(axis=(1, 3)) for file in files]
    ink = 255 - np.round(images).reshape(len(files), -1)
    ink = ink / np.linalg.norm(ink, axis=1, keepdims=True)
    hits, precisions = [], []
    for query, file in enumerate(files):
        others = [index for index in range(len(files)) if index != query]
        # An image of another character ranks first among equal scores.
        same = {index: files[index].parent == file.parent for index in others}
        others.sort(key=lambda index: (-round(float(ink[query] @ ink[index]), 9), same[index]))
        relevant = np.array([same[index] for index in others])
        first = relevant[: relevant.sum()]
        hits.append(first[0])
        precisions.append(np.mean(first * np.cumsum(first) / np.arange(1, len(first) + 1)))
    return 100 * np.mean(hits), 100 * np.mean(precisions)


def test_it_searches_the_alphabets_that_were_not_trained(tmp_path, monkeypatch, capsys):
    write_alphabets(tmp_path / "first", ["Latin", "Greek"])
    write_alphabets(tmp_path / "second", ["Tagalog", "Greek", "Sanskrit"])
    with zipfile.ZipFile(tmp_path / "second.zip", "w") as archive:
        for file in sorted((tmp_path / "second").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    lines, table = run(monkeypatch, capsys, tmp_path / "first", tmp_path / "second.zip", "--epochs", 2)
    assert lines[0] == "24 images of 6 characters, never seen: Sanskrit, Tagalog"
    unseen = [path for name in ("Sanskrit", "Tagalog") for path in sorted((tmp_path / "second" / name).rglob("*.png"))]
    np.testing.assert_allclose(table["raw pixels"], search_pixels(unseen), atol=0.051)
    assert table.keys() == {"raw pixels", "ArcFace"}
    assert all(0 <= figure <= 100 for figure in table["ArcFace"])


@pytest.mark.slow
@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="KERAS_ARCFACE_TEST_DATA has no folder omniglot")
def test_on_omniglot_the_network_is_better_than_pixels(monkeypatch, capsys):
    files = [OMNIGLOT / f"images_background_small{number}.zip" for number in (1, 2)]
    lines, table = run(monkeypatch, capsys, *files, "--epochs", 8)
    names = "Japanese_(katakana), Sanskrit, Tagalog"
    assert lines[0] == f"2,120 images of 106 characters, never seen: {names}"
    recall, average_precision = np.subtract(table["ArcFace"], table["raw pixels"])
    assert recall > 15
    assert average_precision > 15
