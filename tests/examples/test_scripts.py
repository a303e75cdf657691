"""Runs the scripts like a user, for a few steps."""

import subprocess
import sys
from pathlib import Path

import cv2
from conftest import make_face

ROOT = Path(__file__).parents[2]


def run(script, *arguments, cwd=ROOT):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_augmentations_draws_a_picture(tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), make_face(0, 0))
    drawn = run("examples/augmentations.py", tmp_path / "picture.png", "--image", tmp_path / "face.png")
    assert drawn.returncode == 0, drawn.stderr
    assert cv2.imread(str(tmp_path / "picture.png")).std() > 20


def test_margins_draws_a_picture(tmp_path):
    drawn = run("examples/margins.py", tmp_path / "picture.png")
    assert drawn.returncode == 0, drawn.stderr
    assert cv2.imread(str(tmp_path / "picture.png")).std() > 20
