"""Alignment of folders of photos, whole, interrupted and by several processes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import decode
from conftest import encode
from faces.detectors import SquareDetector
from faces.detectors import photo_with_squares

from keras_arcface import data
from keras_arcface.faces import QualityLimits
from keras_arcface.faces import align_folder
from keras_arcface.faces import manifest

ANN, BOB = [(100, 60, 120)], [(30, 30, 100), (300, 200, 30)]


@pytest.fixture
def people(tmp_path):
    """Two people with three and two photos. One of them is damaged, one has no face, and one has two faces."""
    for person, squares in (("ann", [ANN, [], ANN]), ("bob", [BOB, BOB])):
        (tmp_path / "people" / person).mkdir(parents=True)
        for number, places in enumerate(squares):
            (tmp_path / "people" / person / f"{number}.png").write_bytes(encode(photo_with_squares(*places)))
    (tmp_path / "people" / "ann" / "2.png").write_bytes(b"damaged, with a \xff and\na line break")
    return tmp_path / "people"


def align(photos, output, **options):
    return align_folder(photos, output, SquareDetector(), progress=False, **options)


def rows(output):
    with open(output / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(output):
    """Returns the content of all files except for the lock."""
    return {path.relative_to(output): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}


def test_main_faces_are_kept_and_everything_else_has_a_reason(people, tmp_path):
    result = align(people, tmp_path / "out")
    assert (result.photos, result.kept) == (5, 3)
    assert result.rejected == {"no face was found": 1, "cannot be read": 1, "not the main face": 2}
    listed = [(row["photo"], row["crop"], row["reason"][:17]) for row in rows(tmp_path / "out")]
    assert listed == [
        ("ann/0.png", "faces/ann/0.png.0.jpg", ""),
        ("ann/1.png", "", "no face was found"),
        ("ann/2.png", "", "cannot be read: p"),
        ("bob/0.png", "faces/bob/0.png.0.jpg", ""),
        ("bob/0.png", "rejected/bob/0.png.1.jpg", "not the main face"),
        ("bob/1.png", "faces/bob/1.png.0.jpg", ""),
        ("bob/1.png", "rejected/bob/1.png.1.jpg", "not the main face"),
    ]
    assert all((tmp_path / "out" / crop).is_file() for _, crop, _ in listed if crop)


def test_the_manifest_has_the_place_of_each_face(people, tmp_path):
    align(people, tmp_path / "out")
    row = rows(tmp_path / "out")[0]
    (face,) = SquareDetector()(photo_with_squares(*ANN))
    assert [float(row[name]) for name in ("x", "y", "width", "height")] == face.box.tolist()
    points = [(float(row[f"{name}_x"]), float(row[f"{name}_y"])) for name in ("left_eye", "right_eye", "nose")]
    np.testing.assert_allclose(points, face.landmarks[:3], atol=0.01)
    assert float(row["size"]) == pytest.approx(120 / 112 * 35.24, abs=0.1)


def test_crops_are_those_of_align_and_convert_reads_them(people, tmp_path):
    align(people, tmp_path / "out")
    photo = photo_with_squares(*ANN)
    expected = data.align(photo, SquareDetector()(photo)[0].landmarks)
    crop = decode((tmp_path / "out" / "faces" / "ann" / "0.png.0.jpg").read_bytes())
    assert np.abs(crop.astype(int) - expected).mean() < 4
    source = data.ImageFolder(tmp_path / "out" / "faces")
    assert [record.label for record in source] == [0, 1, 1]


def test_all_faces_of_a_flat_folder_are_kept(people, tmp_path):
    result = align(people / "bob", tmp_path / "out")
    assert (result.kept, result.rejected) == (4, {})
    assert (tmp_path / "out" / "faces" / "1.png.1.jpg").is_file()
    assert align(people / "bob", tmp_path / "main", select="main").rejected == {"not the main face": 2}


def test_limits_reject_the_main_face(people, tmp_path):
    result = align(people, tmp_path / "out", limits=QualityLimits(min_size=35))
    assert result.kept == 1
    assert result.rejected["size is below 35"] == 4  # both faces of both photos of bob


def test_the_contact_sheet_shows_kept_and_rejected_faces(people, tmp_path):
    page = align(people, tmp_path / "out").contact_sheet.read_text()
    for text in ("<h2>Kept</h2>", "Rejected: no face was found", "Rejected: not the main face", "5 photos, 3 kept"):
        assert text in page
    assert 'src="faces/ann/0.png.0.jpg"' in page
    assert 'href="../people/ann/0.png"' in page


def test_names_are_escaped_everywhere(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    name = 'a<b>&"c", d\ne\u2028 100%.png'
    (folder / name).write_bytes(encode(photo_with_squares(*ANN)))
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(encode(photo_with_squares(*ANN)))
    result = align(folder, tmp_path / "out")
    assert result.kept == 2
    assert "<b>" not in result.contact_sheet.read_text()
    assert len(rows(tmp_path / "out")) == 2
    assert align(folder, tmp_path / "out") == result


def test_names_that_look_alike_when_escaped_are_different_photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a\n.png", "a\\u00000a.png", "a\\x0a.png"):
        (tmp_path / "photos" / name).write_bytes(encode(photo_with_squares(*ANN)))
    assert align(tmp_path / "photos", tmp_path / "out").kept == 3
    assert len({row["photo"] for row in rows(tmp_path / "out")}) == 3


def test_the_output_must_be_elsewhere(people):
    for output in (people, people / "aligned", people / "ann" / ".." / "x"):
        with pytest.raises(ValueError, match="output must be outside of the folder of the photos"):
            align(people, output)


@pytest.mark.parametrize("content", [b"", b"[1]", b"5", b"\xff"])
def test_damaged_settings_are_named(people, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "align.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"align\.json must contain the arguments of the first call"):
        align(people, tmp_path / "out")


def test_an_error_of_the_detector_names_the_photo(people, tmp_path):
    def failing(photo):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory") as caught:
        align_folder(people, tmp_path / "out", failing, progress=False)
    assert caught.value.__notes__ == ["The photo is ann/0.png."]


def test_several_processes_write_the_same_files(people, tmp_path):
    align(people, tmp_path / "one")
    align(people, tmp_path / "two", processes=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("lost", [1, 40, 300, 700])
def test_it_continues_after_the_last_complete_photo(people, tmp_path, lost):
    align(people, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    path = tmp_path / "out" / "manifest.csv"
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    (tmp_path / "out" / "faces" / "bob" / "1.png.0.jpg").write_bytes(b"a part")
    align(people, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_finished_photos_are_not_searched_again(people, tmp_path):
    align(people, tmp_path / "out")

    class Unused(SquareDetector):
        def __call__(self, photo):
            raise AssertionError

    assert align_folder(people, tmp_path / "out", Unused(), progress=False).kept == 3


def test_new_photos_are_added(people, tmp_path):
    align(people, tmp_path / "out")
    (people / "bob" / "2.png").write_bytes(encode(photo_with_squares(*ANN)))
    assert align(people, tmp_path / "out").kept == 4


def test_other_arguments_are_refused(people, tmp_path):
    align(people, tmp_path / "out")
    with pytest.raises(ValueError, match="whose select is 'main' instead of 'all'"):
        align(people, tmp_path / "out", select="all")
    with pytest.raises(ValueError, match="whose min_size is None instead of 3"):
        align(people, tmp_path / "out", limits=QualityLimits(min_size=3))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "at least one photo"),
        (["a/b/c.jpg"], "which contains the folder b"),
        (["a/1.jpg", "2.jpg"], "contains both, such as 2.jpg"),
        (["notes.txt"], "only files with the suffixes"),
    ],
)
def test_other_folders_are_refused(tmp_path, paths, message):
    (tmp_path / "photos").mkdir()
    for path in paths:
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / path).write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        align(tmp_path / "photos", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"other,columns\n", b"%s\na.png,x\n" % ",".join(manifest.COLUMNS).encode()])
def test_a_damaged_manifest_is_named(people, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.csv"):
        align(people, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.csv").read_bytes() == content


SCRIPT = """
import sys, time
from faces.detectors import SquareDetector
from keras_arcface.faces import align_folder

class Slow(SquareDetector):
    def __call__(self, photo):
        print("searching", flush=True)
        time.sleep(0.02)
        return super().__call__(photo)

if __name__ == "__main__":
    align_folder(sys.argv[1], sys.argv[2], Slow(), processes=int(sys.argv[3]), progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_is_lost_when_it_is_killed(tmp_path, processes):
    (tmp_path / "photos").mkdir()
    for number in range(40):
        photo = photo_with_squares((20, 20, 40 + number), (200, 100, 20 + number))
        (tmp_path / "photos" / f"{number}.png").write_bytes(encode(photo))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    command = [sys.executable, str(script), str(tmp_path / "photos")]
    subprocess.run([*command, str(tmp_path / "whole"), "1"], env=environment, check=True, stdout=subprocess.DEVNULL)
    random = np.random.default_rng(processes)
    output, ended = tmp_path / "out", False
    for _ in range(40):
        arguments = [*command, str(output), str(processes)]
        process = subprocess.Popen(arguments, env=environment, start_new_session=True, stdout=subprocess.PIPE)
        with process.stdout:
            if not process.stdout.readline():  # all photos are finished
                ended = process.wait() == 0
                break
            time.sleep(random.uniform(0, 0.2))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert ended
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_settings_are_readable(people, tmp_path):
    align(people, tmp_path / "out", limits=QualityLimits(max_yaw=45))
    settings = json.loads((tmp_path / "out" / "align.json").read_text())
    assert settings["detector"] == "SquareDetector()"
    assert settings["max_yaw"] == 45
