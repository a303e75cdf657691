import json

import pytest
from conftest import encode
from conftest import make_face
from face_trees import write_megaface

from keras_arcface.data import MegaFaceSet

PROBES = ["Cy_Lee/Cy_Lee_7.png", "Ann/Ann_1.png", "Ann/Ann_2.png", "Cy_Lee/Cy_Lee_9.png", "Ann/Ann_10.png"]
DISTRACTORS = ["100/26@N00/25_0.jpg", "100/26@N00/26_0.jpg", "101/1@N07/9_1.jpg"]


@pytest.fixture
def megaface(tmp_path):
    probes = {name: encode(make_face(0, number)) for number, name in enumerate(PROBES)}
    distractors = {name: encode(make_face(1, number), ".jpg") for number, name in enumerate(DISTRACTORS)}
    write_megaface(tmp_path, probes, distractors, ["Ann_10.png", "Bob_1.png"], ["100/26@N00/26_0.jpg", "x/1/2.jpg"])
    return tmp_path


def test_lists_and_images(megaface):
    found = MegaFaceSet(megaface)
    assert found.probes.names == PROBES
    assert found.distractors.names == DISTRACTORS
    assert found.people == ["Ann", "Cy_Lee"]
    assert found.labels.tolist() == [1, 0, 0, 1, 0]
    assert (found.noisy_probes, found.noisy_distractors) == ([], [])
    assert found.probes[1] == encode(make_face(0, 1))
    assert found.distractors[1:] == [encode(make_face(1, number), ".jpg") for number in (1, 2)]
    assert found.distractors.part(slice(1, 3))[0] == found.distractors[1]
    assert repr(found) == f"<MegaFaceSet({str(megaface)!r}): 5 probes of 2 people, 3 distractors>"
    assert MegaFaceSet(megaface, distractors=2).distractors.names == DISTRACTORS[:2]
    (megaface / "devkit" / "templatelists").rename(megaface / "templatelists")
    assert MegaFaceSet(megaface).probes.names == PROBES


def test_noisy_images_are_left_out(megaface):
    found = MegaFaceSet(megaface, refined=True)
    assert found.probes.names == PROBES[:4]
    assert found.labels.tolist() == [1, 0, 0, 1]
    assert found.distractors.names == [DISTRACTORS[0], DISTRACTORS[2]]
    assert found.noisy_probes == ["Ann/Ann_10.png"]
    assert found.noisy_distractors == ["100/26@N00/26_0.jpg"]
    without = "without 1 noisy probe and 1 noisy distractor"
    assert repr(found) == f"<MegaFaceSet({str(megaface)!r}): 4 probes of 2 people, 2 distractors, {without}>"
    (megaface / "megaface_noises.txt").write_text("\n".join(DISTRACTORS))  # without indices
    with pytest.raises(ValueError, match=r"json_3_1 must contain images that are not noisy. Received: no such image"):
        MegaFaceSet(megaface, refined=True)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("facescrub_noises.txt", "Ann_1", r"line 2: expected `image.jpg`. Received: 'Ann_1'"),
        ("facescrub_noises.txt", "1\t2\tAnn_1.png", r"line 2: expected `image.jpg`"),
        (
            "megaface_noises.txt",
            "26@N00/26_0.jpg",
            r"line 2: expected `folder/person/image.jpg`. Received: '26@N00/26_0",
        ),
        ("megaface_noises.txt", "x\t1/2/3.jpg", r"line 2: expected `folder/person/image.jpg`"),
        ("megaface_noises.txt", "\udcff", r" must be encoded as UTF-8"),
    ],
)
def test_invalid_lists_of_noise_are_named(megaface, file, line, message):
    (megaface / file).write_bytes(f"# noise\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        MegaFaceSet(megaface, refined=True)
    MegaFaceSet(megaface)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"expected a JSON object. Received: \[\]"),
        ('{"path": ["a.png"', r"expected JSON"),
        ({"path": ["a.png"]}, r'must contain a list "id". Received: None'),
        ({"path": [], "id": []}, r'must contain a list "path". Received: \[\]'),
        ({"path": ["a.png", 3], "id": ["a", "b"]}, r'must contain names in "path". Received: 3 at index 1'),
        ({"path": ["a.png", "b\0.png"], "id": ["a", "b"]}, r'must contain names in "path".*at index 1'),
        ({"path": ["a.png", "b.png"], "id": ["a"]}, r'must have one "id" for each "path". Received: 1 for 2'),
        (
            {"path": ["a.png", "b.png", "a.png"], "id": ["a"] * 3},
            r"every image once. Received: 'a.png' at index 0 and 2",
        ),
    ],
)
def test_invalid_lists_are_named(megaface, content, message):
    file = megaface / "devkit" / "templatelists" / "facescrub_features_list.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=f"facescrub_features_list.json.*{message}"):
        MegaFaceSet(megaface)


def test_missing_files_are_named(megaface):
    with pytest.raises(
        FileNotFoundError, match=r"json_7_1 must be a list of MegaFace's development kit. Received: no s"
    ):
        MegaFaceSet(megaface, distractors=7)
    (megaface / "facescrub_noises.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"facescrub_noises.txt must be a list of noisy images of InsightFace"):
        MegaFaceSet(megaface, refined=True)
    (megaface / "megaface_images" / DISTRACTORS[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"25_0.jpg must be an existing image file. Received: no such file"):
        MegaFaceSet(megaface).distractors[:2]
    for file in (megaface / "devkit" / "templatelists").glob("megaface*"):
        file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"must contain a list of distractors, such as megaface_features_list.js"
    ):
        MegaFaceSet(megaface)
    with pytest.raises(
        FileNotFoundError, match=r"must contain a folder devkit/templatelists. Received: no such folder"
    ):
        MegaFaceSet(megaface / "devkit" / "templatelists")


def test_paths_that_leave_the_folder_are_refused(megaface):
    file = megaface / "devkit" / "templatelists" / "megaface_features_list.json_2_1"
    file.write_text(json.dumps({"path": ["../facescrub_images/Ann/Ann_1.png"]}))
    with pytest.raises(
        ValueError, match=r"must be inside of the folder .*megaface_images. Received: a path that leaves"
    ):
        MegaFaceSet(megaface, distractors=2).distractors[:1]
