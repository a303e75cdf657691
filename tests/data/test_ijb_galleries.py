import numpy as np
import pytest
from conftest import encode
from conftest import make_face
from face_trees import write_ijb

from keras_arcface.data import IjbIdentificationSet
from keras_arcface.data import IjbSet

GALLERIES = {"G1": {10: 1, 11: 2}, "G2": {20: 3}}
PROBES = {30: 2, 31: 3, 32: 2}


def write(folder, **options):
    templates = [10, 10, 11, 20, 30, 31, 31, 32]
    images = {
        f"{n}.jpg": (encode(make_face(n, 0, (112, 112)), ".jpg"), template, n, 0.9)
        for n, template in enumerate(templates)
    }
    write_ijb(folder, images, **{"galleries": GALLERIES, "probes": PROBES, **options})


@pytest.fixture
def ijb(tmp_path):
    write(tmp_path, pairs=[(10, 30, 0), (11, 30, 1)])
    return tmp_path


def test_galleries_and_probes(ijb):
    found = IjbIdentificationSet(ijb)
    assert found.probes.tolist() == [30, 31, 32]
    assert found.probe_subjects.tolist() == [2, 3, 2]
    assert {name: ids.tolist() for name, ids in found.galleries.items()} == {"G1": [10, 11], "G2": [20]}
    assert {name: ids.tolist() for name, ids in found.gallery_subjects.items()} == {"G1": [1, 2], "G2": [3]}
    assert (len(found), found.skipped, found.skipped_templates) == (8, [], 0)
    np.testing.assert_array_equal(found[:3], IjbSet(ijb)[:3])
    text = f"<IjbIdentificationSet({str(ijb)!r}): 8 images of 6 templates, 3 probes, galleries G1 of 2 and G2 of 1>"
    assert repr(found) == text


def test_names_of_ijbb(tmp_path):
    write(tmp_path, galleries={"S1": GALLERIES["G1"], "S2": GALLERIES["G2"]}, name="ijbb")
    assert list(IjbIdentificationSet(tmp_path).galleries) == ["S1", "S2"]


def test_templates_without_a_detected_face_are_skipped(ijb, caplog):
    file = ijb / "meta" / "ijbc_name_5pts_score.txt"
    lines = file.read_text().splitlines()
    for row in (0, 2, 4):  # template 10 keeps an image; 11 of gallery G1 and probe 30 do not
        lines[row] = f"{row}.jpg " + "-1 " * 10 + "0"
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"line 1: 0.jpg has no detected face"):
        IjbIdentificationSet(ijb)
    found = IjbIdentificationSet(ijb, undetected="skip")
    assert (found.skipped, found.skipped_templates) == (["0.jpg", "2.jpg", "4.jpg"], 2)
    assert found.galleries["G1"].tolist() == [10]
    assert (found.probes.tolist(), found.probe_subjects.tolist()) == ([31, 32], [3, 2])
    assert "skipped 3 images without a detected face, and 2 templates without a remaining image" in caplog.text
    lines[3] = "3.jpg " + "-1 " * 10 + "0"
    file.write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"gallery_G2.csv must contain a template with a detected face. Received: 1 te"
    ):
        IjbIdentificationSet(ijb, undetected="skip")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("gallery_G1", "T,S\n10,1\n10\n", r"line 3: expected a template id and a subject id .* Received: '10'"),
        ("gallery_G2", "T,S\n20,x,1.jpg\n", r"line 2: expected a template id and a subject id"),
        ("gallery_G2", "T,S\n20,-3\n", r"line 2: expected a template id and a subject id"),
        ("gallery_G2", f"T,S\n20,{10**19}\n", r"line 2: expected a template id and a subject id"),
        (
            "probe_mixed",
            "T,S\n30,2,a\n31,3,b\n30,3,c\n",
            r"line 4: expected subject 2 for template 30, as in line 2. Rec",
        ),
        (
            "probe_mixed",
            "T,S\n30,2\n33,3\n",
            r"line 3: expected a template of ijbc_face_tid_mid.txt. Received: template 33",
        ),
        ("probe_mixed", "T,S\n", r" must contain templates and their subjects. Received: no template"),
        ("probe_mixed", "\udcff", r" must be encoded as UTF-8"),
    ],
)
def test_invalid_lines_are_named(ijb, file, content, message):
    (ijb / "meta" / f"ijbc_1N_{file}.csv").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"ijbc_1N_{file}.csv.*{message}"):
        IjbIdentificationSet(ijb)


def test_a_list_without_heading_loses_no_line(ijb):
    (ijb / "meta" / "ijbc_1N_probe_mixed.csv").write_text("30,2,a,b\n31,3\n")
    assert IjbIdentificationSet(ijb).probes.tolist() == [30, 31]


@pytest.mark.parametrize("file", ["gallery_G1", "gallery_G2", "probe_mixed"])
def test_missing_files_are_named(ijb, file):
    (ijb / "meta" / f"ijbc_1N_{file}.csv").unlink()
    message = rf"ijbc_1N_{file}.csv must be a file of the protocol 1:N of IJB-B or IJB-C. Received: no such file"
    with pytest.raises(FileNotFoundError, match=message):
        IjbIdentificationSet(ijb)
