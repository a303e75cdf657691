"""Groups of people in the command `keras-arcface evaluate`, against a slow program that reads the files itself."""

import json
import math

import cv2
import numpy as np
import pytest
import rfw_files
from conftest import encode
from conftest import make_face

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface._alignment import TEMPLATE

PEOPLE = 10
PAIRS = [
    line
    for fold in range(10)
    for line in (
        f"{{}}{fold}\t1\t2",
        f"{{}}{(fold + 3) % PEOPLE}\t2\t1",
        f"{{}}{fold}\t1\t{{}}{(fold + 1) % PEOPLE}\t1",
        f"{{}}{fold}\t2\t{{}}{(fold + 4) % PEOPLE}\t1",
    )
]


@pytest.fixture
def rfw(tmp_path):
    """A set of 40 pairs per group in ten folds, with noise that grows from group to group."""
    rfw_files.write(tmp_path / "RFW", PEOPLE, 2, PAIRS, noise=lambda index: 20 + 60 * index)
    return tmp_path / "RFW"


def slow_face(rfw, group, person, number):
    """Returns the pixels of an image, aligned to its landmarks by the least squares over all similarities."""
    image = cv2.imread(str(rfw / "data" / group / person / f"{person}_{int(number):04d}.jpg"))[:, :, ::-1]
    for line in (rfw / "txts" / group / f"{group}_lmk.txt").read_text().splitlines():
        path, _, *numbers = line.split("\t")
        if path == f"/test/data/{group}/{person}/{person}_{int(number):04d}.jpg":
            points = np.array(numbers, float).reshape(5, 2)
    rows, targets = [], []
    for (x, y), (u, v) in zip(points, TEMPLATE, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        targets += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0]
    matrix = np.array([[a, -b, c], [b, a, d]])
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, (112, 112), flags=cv2.INTER_LINEAR).astype(float)


def slow_scores(rfw, group):
    """Returns `(cosine, whether genuine)` of each pair of a group, of raw pixels with the mirror image added."""
    found = []
    for line in (rfw / "txts" / group / f"{group}_pairs.txt").read_text().splitlines():
        fields = line.split("\t")
        images = [fields[:2], [fields[0], fields[2]] if len(fields) == 3 else fields[2:]]
        vectors = []
        for person, number in images:
            face = slow_face(rfw, group, person, number)
            vector = (face + face[:, ::-1]).ravel()
            vectors.append(vector / math.sqrt(sum(vector**2)))
        found.append((float(vectors[0] @ vectors[1]), len(fields) == 3))
    return found


def slow_accuracy(scored, folds=10):
    """Returns the accuracy over folds in order, with thresholds from 0 to 4 in steps of 0.01 in squared distance."""
    size, accuracies = len(scored) // folds, []
    thresholds = np.arange(0, 4, 0.01)
    for fold in range(folds):
        test = range(fold * size, (fold + 1) * size)
        hits = [
            sum((2 - 2 * s < t) == same for number, (s, same) in enumerate(scored) if number not in test)
            for t in thresholds
        ]
        best = thresholds[int(np.argmax(hits))]
        accuracies.append(np.mean([(2 - 2 * scored[n][0] < best) == scored[n][1] for n in test]))
    return np.mean(accuracies)


def slow_threshold(scored, far):
    """Returns the highest impostor score that a threshold for a FAR must reject, and the next higher score."""
    impostors = sorted((score for score, same in scored if not same), reverse=True)
    allowed = math.floor(far * len(impostors) + 1e-9)
    rejected = impostors[allowed]
    return rejected, min(score for score, _ in scored if score > rejected)


def test_rfw_equals_a_slow_program(rfw, run, tmp_path):
    done = run("evaluate", "pixels", "--rfw", rfw, "--group-far", 0.2, "--output", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    found = results["rfw"]["RFW"]["pixels"]
    scored = {group: slow_scores(rfw, group) for group in rfw_files.GROUPS}
    for group, of_group in scored.items():
        assert found["accuracy"][group]["accuracy"] == pytest.approx(slow_accuracy(of_group)), group
        assert found["accuracy"][group]["genuine_pairs"] == 20
    rejected, accepted = slow_threshold([pair for of_group in scored.values() for pair in of_group], 0.2)
    assert found["groups"]["threshold"] == pytest.approx((rejected + accepted) / 2, abs=1e-6)
    print({group: found["accuracy"][group]["accuracy"] for group in scored})
    for group, of_group in scored.items():
        rates = found["groups"]["groups"][group]
        threshold = (rejected + accepted) / 2
        assert rates["false_matches"] == sum(s >= threshold for s, same in of_group if not same)
        assert rates["false_non_matches"] == sum(s < threshold for s, same in of_group if same)
        assert (rates["genuine"], rates["impostors"]) == (20, 20)
        assert rates["fnmr"] == rates["false_non_matches"] / 20
    assert len({found["groups"]["groups"][group]["fnmr"] for group in scored}) > 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>RFW</h2>" in page
    assert "<h2>RFW: groups</h2>" in page


def test_tables_of_rfw(rfw, run, tmp_path):
    for group in rfw_files.GROUPS:
        (rfw / "txts" / group / f"{group}_lmk.txt").unlink()
    command = ("evaluate", "pixels", "--rfw", f"faces={rfw}", "--output", tmp_path / "out", "--folds", 5)
    failed = run(*command)
    assert failed.code == 1
    assert "African_lmk.txt must be a list of landmarks of RFW" in failed.err
    done = run(*command, "--aligned", "--size", 64, 64, "--group-far", 0.1)
    assert done.code == 0, done.err
    assert "160 pairs. Accuracy of each group over 5 folds, with its own thresholds." in done.out
    assert "One threshold for all groups, at FAR 0.1 of the impostor pairs of all groups." in done.out
    assert "too few pairs to compare the FMR of African, Asian, Caucasian, Indian." in done.out
    columns = [line.split() for line in done.out.splitlines() if "African" in line and "Indian" in line]
    assert columns[0] == [*rfw_files.GROUPS, "mean"]
    assert "GARBE" in done.out
    refused = run(*command, "--size", 64, 32)
    assert refused.code == 2
    assert "--rfw require a square --size. Received: 64 32" in refused.err


def test_groups_of_a_pair_set(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faces = [encode(make_face(person, image)) for person in range(60) for image in range(2)]
    same = np.arange(60) % 2 == 0
    images = [faces[(2 * n + side * (1 if same[n] else 3)) % 120] for n in range(60) for side in (0, 1)]
    data.PairSet(images, same).save("pairs.npz")
    groups = ["young", "young", "old", "old"] * 14 + ["", "", "young", "old"]
    (tmp_path / "groups.txt").write_text("\n".join(groups) + "\n")
    command = ("evaluate", "pixels", "--pairs", "pairs.npz", "--folds", 5, "--group-far", 0.1, "--groups")
    done = run(*command, "groups.txt", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["verification"]["pairs"]["pixels"]
    kept = np.array(groups) != ""
    pairs = data.PairSet.load("pairs.npz")
    embeddings = evaluation.embed_pairs(lambda images: np.reshape(images, (len(images), -1)), pairs)
    verified = evaluation.verify(embeddings, pairs.same, folds=5)
    with pytest.warns(UserWarning, match="too few"):
        expected = evaluation.by_group(verified.scores[kept], same[kept], np.array(groups)[kept], far=0.1)
    assert found["groups"] == evaluation.to_json(expected)
    assert found["accuracy"] == verified.accuracy
    shown = run(*command, "groups.txt")
    assert "Left out: 2 of 60 pairs without a group." in shown.out

    refused = run("evaluate", "pixels", "--rfw", tmp_path, "--groups", "groups.txt")
    assert refused.code == 2
    assert "error: --groups requires --pairs" in refused.err
    (tmp_path / "short.txt").write_text("\n".join(groups[:-1]))
    for file, message in (
        ("short.txt", "short.txt must have 60 lines, one for each pair. Received: 59 lines"),
        ("none.txt", "--groups: expected an existing file. Received: none.txt"),
        ("pairs.npz", "pairs.npz must be encoded as UTF-8"),
    ):
        failed = run(*command, file)
        assert failed.code == 1
        assert message in failed.err
