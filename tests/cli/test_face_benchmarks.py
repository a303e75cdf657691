"""YouTube Faces, MegaFace and IJB 1:N by the command `evaluate`, against slow programs written from the protocols."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import encode
from face_trees import write_feature
from face_trees import write_ijb
from face_trees import write_megaface
from face_trees import write_ytf

from keras_arcface import data
from keras_arcface._alignment import TEMPLATE

PIXELS = ("evaluate", "pixels", "--output", "out")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def noisy_face(person, image, size=12, spread=70):
    """Returns an encoded image that pixels often confuse with another person's."""
    person_rng, image_rng = np.random.default_rng(person), np.random.default_rng([person, image])
    face = person_rng.integers(60, 190, (size, size, 3)) + image_rng.normal(0, spread, (size, size, 3))
    return encode(np.clip(face, 0, 255).astype(np.uint8))


def embed(pixels):
    """The embedding of the model `pixels`: an image and its mirror image."""
    pixels = pixels.astype(np.float64)
    return (pixels + pixels[:, ::-1]).ravel()


def read(path):
    return cv2.imread(str(path))[:, :, ::-1]


def unit(vector):
    return vector / np.linalg.norm(vector)


def results(protocol, name):
    return json.loads(Path("out/results.json").read_text())[protocol][name]


# YouTube Faces


def slow_ytf(directory, splits="splits.txt"):
    """Returns the accuracy of each split: a video is its mean unit vector, the threshold that of the other splits."""
    rows = [[field.strip() for field in line.split(",")] for line in (directory / splits).read_text().split("\n")[1:-1]]

    def video(name):
        frames = [unit(embed(read(path))) for path in sorted((directory / "aligned_images_DB" / name).iterdir())]
        return unit(np.mean(frames, axis=0))

    distances = np.array([np.sum((video(first) - video(second)) ** 2) for _, _, first, second, *_ in rows])
    same = np.array([row[-1] == "1" for row in rows])
    split_of = np.array([int(row[0]) for row in rows])
    accuracies = []
    for split in sorted(set(split_of)):
        here, best = split_of == split, (-1.0, None)
        for threshold in np.arange(0, 4, 0.01):
            others = np.mean((distances < threshold)[~here] == same[~here])
            best = max(best, (others, -threshold))
        accuracies.append(np.mean((distances < -best[1])[here] == same[here]))
    return accuracies


def write_videos(directory, splits=4, people=6):
    videos = {
        f"Person_{person}/{video}": [
            noisy_face(person, 10 * video + frame) for frame in range(1 + (person + video) % 4)
        ]
        for person in range(people)
        for video in (1, 3)
    }
    rng = np.random.default_rng(0)
    pairs = []
    for split in range(1, splits + 1):
        for number in range(8):
            first, other = rng.permutation(people)[:2]
            same = number < 4
            pairs.append((split, f"Person_{first}/1", f"Person_{first if same else other}/3", same))
    write_ytf(directory, videos, pairs)


def test_ytf(run, tmp_path):
    write_videos(tmp_path / "ytf")
    done = run(*PIXELS, "--ytf", "ytf")
    assert done.code == 0, done.err
    found = results("videos", "ytf")["pixels"]
    expected = slow_ytf(tmp_path / "ytf")
    np.testing.assert_allclose(found["grid"]["accuracies"], expected, atol=0)
    assert 0.5 < found["accuracy"] < 1
    assert "16 genuine and 16 impostor pairs of 12 videos, 4 splits." in done.out
    assert "<h2>ytf</h2>" in (tmp_path / "out" / "report.html").read_text()
    print(f"accuracy {found['accuracy']:.4f}, differs by {abs(found['accuracy'] - np.mean(expected)):.1e}")


def test_ytf_with_another_list(run, tmp_path):
    write_videos(tmp_path / "ytf")
    lines = (tmp_path / "ytf" / "splits.txt").read_text().split("\n")[:-1]
    corrected = [line + (", 0" if number % 5 == 1 else f", {line[-1]}") for number, line in enumerate(lines)]
    (tmp_path / "ytf" / "splits_corrected.txt").write_text("\n".join(corrected) + "\n")
    done = run(*PIXELS, "--ytf", "ytf/splits_corrected.txt", "--size", 12, 12)
    assert done.code == 0, done.err
    found = results("videos", "splits_corrected")["pixels"]
    expected = slow_ytf(tmp_path / "ytf", "splits_corrected.txt")
    np.testing.assert_allclose(found["grid"]["accuracies"], expected, atol=0)
    assert expected != slow_ytf(tmp_path / "ytf")


# IJB 1:N


def slow_templates(directory, name):
    """Returns the template embeddings: norm and detector score weight images, frames of a medium count as one."""
    scores = [line.split() for line in (directory / "meta" / f"{name}_name_5pts_score.txt").read_text().splitlines()]
    images = {}
    lines = (directory / "meta" / f"{name}_face_tid_mid.txt").read_text().splitlines()
    for line, (*_, score) in zip(lines, scores, strict=True):
        image, template, medium = line.split()
        face = data.align(read(directory / "loose_crop" / image), TEMPLATE * 24 / 112, 24)
        images.setdefault(int(template), {}).setdefault(medium, []).append(embed(face) * float(score))
    return {t: unit(sum(np.mean(frames, axis=0) for frames in media.values())) for t, media in images.items()}


def slow_search(templates, probes, gallery, fprs):
    """Returns the share of mates at ranks 1 and 5, and the share found first above the threshold of each FPR."""
    first, fifth, hits, outside = [], [], [], []
    for probe, subject in probes.items():
        ranked = sorted(((templates[probe] @ templates[entry], gallery[entry]) for entry in gallery), reverse=True)
        if subject in gallery.values():
            found = [who for _, who in ranked]
            first.append(found[0] == subject)
            fifth.append(subject in found[:5])
            hits.append(ranked[0][0] if found[0] == subject else -1)
        else:
            outside.append(ranked[0][0])
    outside = sorted(outside, reverse=True)
    tpirs = {str(fpr): np.mean([hit > outside[int(fpr * len(outside))] for hit in hits]) for fpr in fprs if outside}
    return {"1": np.mean(first), "5": np.mean(fifth), "dir": tpirs}


@pytest.mark.parametrize(("name", "galleries"), [("ijbc", ("G1", "G2")), ("ijbb", ("S1", "S2"))])
def test_ijb_one_to_many(run, tmp_path, name, galleries):
    people, images, subjects = 24, {}, {}
    rng = np.random.default_rng(1)
    for person in range(people):
        for template in range(6):  # the first is that of the gallery
            number = 100 * person + template
            subjects[number] = person
            for image in range(1 + (person + template) % 3):
                content = noisy_face(person, 10 * template + image, size=24, spread=150)
                images[f"{len(images)}.png"] = (content, number, len(images) // 2, round(rng.uniform(0.3, 1), 3))
    gallery = {100 * person: person for person in range(people)}
    parts = {
        galleries[0]: {template: person for template, person in gallery.items() if person < 10},
        galleries[1]: {template: person for template, person in gallery.items() if 10 <= person < 22},
    }
    probes = {template: person for template, person in subjects.items() if template % 100}
    write_ijb(tmp_path / "ijb", images, galleries=parts, probes=probes, name=name, size=24)
    done = run(*PIXELS, "--ijb-1n", "ijb", "--size", 24, 24)
    assert done.code == 0, done.err
    found = results("identification", "ijb")["pixels"]
    templates = slow_templates(tmp_path / "ijb", name)
    slow = {part: slow_search(templates, probes, entries, (0.1,)) for part, entries in parts.items()}
    for part, expected in slow.items():
        assert found["galleries"][part]["cmc"][0] == expected["1"]
        assert found["galleries"][part]["cmc"][4] == expected["5"]
        assert found["galleries"][part]["dir"] == {"0.01": None, **expected["dir"]}  # too few probes for 0.01
        assert 0 < expected["dir"]["0.1"] < expected["1"] < expected["5"] < 1
    first, second = slow.values()
    assert found["cmc"][0] == (first["1"] + second["1"]) / 2
    assert found["dir"]["0.1"] == (first["dir"]["0.1"] + second["dir"]["0.1"]) / 2
    both = slow_search(templates, probes, {**parts[galleries[0]], **parts[galleries[1]]}, ())
    assert found["galleries"]["+".join(galleries)]["cmc"][0] == both["1"]
    rows = [line.split() for line in done.out.splitlines() if line.startswith("pixels")]
    assert [row[:2] for row in rows[1:3]] == [["pixels,", galleries[0]], ["pixels,", galleries[1]]]
    assert rows[0][1] == f"{found['cmc'][0]:.2%}"
    print(f"rank-1 {found['cmc'][0]:.4f}, DIR@0.1 {found['dir']['0.1']:.4f}, both as the slow program")


# MegaFace


def slow_megaface(directory, distractor_list, noise=((), ()), features=None):
    """Returns the rates at ranks 1 and 10 over all ordered pairs of a person, and TAR at FAR 0.001."""
    lists = directory / "devkit" / "templatelists"
    listed = json.loads((lists / "facescrub_features_list.json").read_text())
    probes = [(p, i) for p, i in zip(listed["path"], listed["id"], strict=True) if p.split("/")[-1] not in noise[0]]
    names = [name for name in json.loads((lists / distractor_list).read_text())["path"] if name not in noise[1]]

    def feature(part, name):
        if features is None:
            return unit(embed(read(directory / f"{part}_images" / name)))
        content = (features / part / f"{name}_peer.bin").read_bytes()
        return unit(np.array(struct.unpack(f"<{(len(content) - 16) // 4}f", content[16:])))

    vectors = [(feature("facescrub", path), person) for path, person in probes]
    distractors = np.array([feature("megaface", name) for name in names])
    ranks, genuine, impostor = [], [], []
    for probe, (vector, person) in enumerate(vectors):
        scores = distractors @ vector
        impostor += scores.tolist()
        for mate, (other, its_person) in enumerate(vectors):
            if mate != probe and its_person == person:
                genuine.append(vector @ other)
                ranks.append(np.sum(scores >= vector @ other))
    impostor = sorted(impostor, reverse=True)
    tar = np.mean(np.array(genuine) > impostor[int(0.001 * len(impostor))])
    return np.mean(np.array(ranks) < 1), np.mean(np.array(ranks) < 10), tar


NOISE = (["P2_1.png", "P5_3.png"], ["1/3@N00/3.png", "1/11@N00/11.png", "1/21@N00/21.png"])


def write_small_megaface(directory):
    probes = {f"P{p}/P{p}_{n}.png": noisy_face(p, n) for p in range(8) for n in range(5)}
    distractors = {f"{n % 2}/{n}@N00/{n}.png": noisy_face(100 + n, 0) for n in range(150)}
    write_megaface(directory, probes, distractors, *NOISE)


def check(found, expected):
    assert (found["cmc"][0], found["cmc"][9], found["tar"]["0.001"]) == expected
    assert 0 < expected[0] < expected[1] < 1


@pytest.mark.parametrize("refined", [False, True])
def test_megaface_from_images(run, tmp_path, refined, monkeypatch):
    monkeypatch.setattr("keras_arcface.evaluation.identification._DISTRACTORS_PER_BLOCK", 64)
    write_small_megaface(tmp_path / "mega")
    done = run(*PIXELS, "--megaface", "mega", *(["--refined"] if refined else []))
    assert done.code == 0, done.err
    found = results("distractors", "mega")["pixels"]
    expected = slow_megaface(tmp_path / "mega", "megaface_features_list.json_150_1", NOISE if refined else ((), ()))
    check(found, expected)
    assert found["impostor"] == (38 * 147 if refined else 40 * 150)
    assert ("Left out as noisy: 2 probes and 3 distractors." in done.out) == refined
    assert f"distractors 65 to 128 of {147 if refined else 150}" in done.out
    print(f"rank-1 {found['cmc'][0]:.4f}, as the slow program")


def test_megaface_from_features(run, tmp_path):
    write_small_megaface(tmp_path / "mega")
    rng = np.random.default_rng(0)
    megaface = data.MegaFaceSet("mega")
    centers = rng.normal(size=(8, 6))
    for number, name in enumerate(megaface.probes.names):
        values = centers[megaface.labels[number]] + rng.normal(size=6)
        write_feature(tmp_path / "peer" / "facescrub" / f"{name}_peer.bin", values)
    for name in megaface.distractors.names:
        write_feature(tmp_path / "peer" / "megaface" / f"{name}_peer.bin", rng.normal(size=6))
    expected = slow_megaface(tmp_path / "mega", "megaface_features_list.json_150_1", features=tmp_path / "peer")
    done = run("evaluate", "--output", "out", "--megaface", "mega", "--megaface-features", "peer")
    assert done.code == 0, done.err
    check(results("distractors", "mega")["peer"], expected)
    assert "Features from files: peer." in (tmp_path / "out" / "report.html").read_text()
    write_feature(tmp_path / "peer" / "facescrub" / f"{megaface.probes.names[0]}_other.bin", [1.0] * 6)
    done = run(*PIXELS, "--megaface", "mega", "--megaface-features", "theirs=peer,ending=_peer.bin")
    assert done.code == 0, done.err
    check(results("distractors", "mega")["theirs"], expected)
    assert list(results("distractors", "mega")) == ["pixels", "theirs"]
    failed = run("evaluate", "--megaface", "mega", "--megaface-features", "peer")
    assert failed.code == 1
    assert "ending must be given" in failed.err


def test_both_protocols_of_ijb_in_one_run(run, tmp_path):
    images = {f"{n}.png": (noisy_face(n // 2, n, 24, 10), n, n, 0.9) for n in range(8)}
    subjects = {n: n // 2 for n in range(8)}
    galleries = {"G1": {0: 0, 2: 1}, "G2": {4: 2, 6: 3}}
    pairs = [(0, 1, 1), (2, 3, 1), (0, 3, 0), (2, 5, 0)]
    write_ijb(tmp_path / "ijb", images, pairs, galleries, {n: subjects[n] for n in (1, 3, 5, 7)}, size=24)
    done = run(*PIXELS, "--ijb", "ijb", "--ijb-1n", "ijb", "--size", 24, 24, "--no-norm", "--no-detector-score")
    assert done.code == 0, done.err
    assert results("templates", "ijb")["pixels"]["auc"] == 1.0
    assert results("identification", "ijb")["pixels"]["cmc"][0] == 1.0
    assert done.out.count("images not weighted") == 2


def test_mistakes(run, tmp_path):
    write_small_megaface(tmp_path / "mega")
    (tmp_path / "peer" / "facescrub").mkdir(parents=True)
    for code, arguments, message in (
        (1, ["pixels", "--ytf", "mega"], "mega must contain a folder aligned_images_DB or frame_images_DB"),
        (1, ["pixels", "--ijb-1n", "mega"], "must contain one file <name>_face_tid_mid.txt"),
        (1, ["pixels", "--megaface", "peer"], "peer must contain a folder devkit/templatelists"),
        (1, ["--megaface", "mega", "--megaface-features", "peer"], "expected an existing folder peer/megaface"),
        (1, ["--megaface", "mega", "--megaface-features", "peer,end=x"], "Expected [NAME=]PATH[,ending=X] for --mega"),
        (2, ["--megaface", "mega"], "expected a MODEL. Only --megaface needs none"),
        (2, ["pixels", "--ytf", "mega", "--megaface-features", "peer"], "--megaface-features requires --megaface"),
        (
            2,
            ["--ytf", "mega", "--megaface", "mega", "--megaface-features", "peer"],
            "expected a MODEL. Only --megaface needs none",
        ),
    ):
        done = run("evaluate", *arguments)
        assert done.code == code, done.err
        assert message in done.err
