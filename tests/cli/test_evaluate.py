"""The command `keras-arcface evaluate`."""

import json

import numpy as np
from conftest import encode
from conftest import make_face

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface._alignment import TEMPLATE
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder


def test_models_are_compared_on_all_kinds_of_sets(run, tmp_path):
    size = (112, 112)
    faces = {person: [make_face(person, image, size) for image in range(4)] for person in range(8)}
    images = [
        encode(faces[p][i]) for pair in range(40) for p, i in ((pair % 8, 0), ((pair + pair % 2) % 8, pair % 3 + 1))
    ]
    data.PairSet(images, np.arange(40) % 2 == 0).save(tmp_path / "faces.npz")
    for person, its_images in faces.items():
        for number, face in enumerate(its_images):
            part = "query" if number == 0 else "bounding_box_test"
            for path in (f"shop/{person}/{number}.png", f"market/{part}/{person:04d}_c{number + 1}s1_{number}.png"):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(encode(face))
    (tmp_path / "ijb" / "meta").mkdir(parents=True)
    (tmp_path / "ijb" / "loose_crop").mkdir()
    landmarks = " ".join(map(str, TEMPLATE.ravel()))
    listed = [(f"{person}_{image}.png", person * 2 + image // 2, image) for person in faces for image in range(4)]
    for name, template, _ in listed:
        person, image = map(int, name.removesuffix(".png").split("_"))
        assert template // 2 == person
        (tmp_path / "ijb" / "loose_crop" / name).write_bytes(encode(faces[person][image]))
    pairs = [f"{a} {b} {int(a // 2 == b // 2)}" for a in range(16) for b in range(a)]
    for file, lines in {
        "face_tid_mid": [" ".join(map(str, row)) for row in listed],
        "name_5pts_score": [f"{name} {landmarks} 0.99" for name, _, _ in listed],
        "template_pair_label": pairs,
    }.items():
        (tmp_path / "ijb" / "meta" / f"ijbc_{file}.txt").write_text("\n".join(lines) + "\n")
    make_embedder(IResNet((1, 1), width=16), dim=8).save(tmp_path / "tiny.keras")

    command = (
        *("evaluate", f"ours={tmp_path / 'tiny.keras'}", "pixels", "--output", tmp_path / "out", "--nmi"),
        *("--pairs", tmp_path / "faces.npz", "--retrieval", tmp_path / "shop"),
        *("--market", tmp_path / "market", "--ijb", tmp_path / "ijb"),
    )
    done = run(*command, "--json")
    assert done.code == 0, done.err
    assert len([line for line in done.err.splitlines() if line.startswith("pixels")]) == 4
    results = json.loads(done.out)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert {protocol: list(sets) for protocol, sets in results.items()} == {
        "verification": ["faces"],
        "retrieval": ["shop"],
        "reidentification": ["market"],
        "templates": ["ijb"],
    }
    # The images of a person differ so little that raw pixels identify all of them.
    assert results["verification"]["faces"]["pixels"]["auc"] == 1.0
    assert results["retrieval"]["shop"]["pixels"]["recall"]["1"] == 1.0
    assert results["retrieval"]["shop"]["pixels"]["nmi"] > 0.7
    assert results["reidentification"]["market"]["pixels"]["mean_average_precision"] == 1.0
    assert results["templates"]["ijb"]["pixels"]["tar"]["0.1"] == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"<h2>{name}</h2>" in page for name in ("faces", "shop", "market", "ijb"))


def test_errors(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = tmp_path / "pairs.npz"
    data.PairSet([encode(make_face(0, 0))] * 40, np.arange(20) % 2 == 0).save(pairs)
    make_embedder(IResNet((1, 1), width=16, input_shape=(48, 48, 3)), dim=8).save(tmp_path / "lr=0.1.keras")
    for arguments, message in (
        (
            ["nothing.keras", "--pairs", pairs],
            "error: MODEL must be an existing path, pixels, or one of ",
        ),
        (["pixels", "--pairs", pairs, tmp_path / "none.bin"], "error: --pairs: expected an existing path. Received: "),
        (["a=pixels", "a=pixels", "--pairs", pairs], "error: Every model needs a unique name"),
        (["pixels", "--pairs", pairs, pairs], "error: Every set needs a unique name, as in NAME=PATH"),
        (["pixels,mean=abc", "--pairs", pairs], "mean=NUMBER, std=NUMBER. Received: 'mean=abc', in pixels,mean=abc"),
        (["lr=0.1.keras", "--pairs", pairs], "error: lr=0.1.keras expects images of 48 x 48"),
        (
            ["pixels", "--ijb", tmp_path, "--size", 112, 96],
            "error: --ijb, --ijb-1n and --rfw require a square --size. Received: 112 96",
        ),
        (["pixels"], "expected at least one set: --pairs, --retrieval, --market"),
    ):
        done = run("evaluate", *arguments)
        assert done.code == (2 if arguments[-1] in ("pixels", 96) else 1)
        assert message in done.err
    assert list((tmp_path / "evaluation").iterdir()) == []


def test_earlier_results_are_kept_if_a_set_fails(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faces = [encode(make_face(person, image)) for person in range(20) for image in range(2)]
    data.PairSet(faces, np.arange(20) % 2 == 0).save(tmp_path / "good.npz")
    data.PairSet([faces[0][:60], *faces[1:]], np.arange(20) % 2 == 0).save(tmp_path / "bad.npz")
    done = run("evaluate", "pixels", "--pairs", "first=good.npz", "bad.npz", "--output", "out")
    assert done.code == 1
    assert "error: image 0 (of pair 0) is not a readable image" in done.err
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["verification"]) == ["first"]
    assert "<h2>first</h2>" in (tmp_path / "out" / "report.html").read_text()


def test_options_of_verification(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faces = [encode(make_face(person, image)) for person in range(20) for image in range(2)]
    data.PairSet(faces, np.arange(20) < 10).save("pairs.npz")
    options = ("--folds", 5, "--shuffle-seed", 3, "--no-flip", "--batch-size", 7)
    done = run("evaluate", "pixels", "bgr=pixels,color=BGR", "--pairs", "pairs.npz", *options)
    assert done.code == 0, done.err
    assert "10 genuine and 10 impostor pairs. Pairs in random order (seed 3)." in done.out
    assert "without mirror images" in (tmp_path / "evaluation" / "report.html").read_text()
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())["verification"]["pairs"]
    pairs = data.PairSet.load("pairs.npz")
    embeddings = evaluation.embed_pairs(lambda images: np.reshape(images, (len(images), -1)), pairs, flip=False)
    expected = evaluation.to_json(evaluation.verify(embeddings, pairs.same, folds=5, shuffle_seed=3))
    assert results["pixels"] == expected
    assert expected != evaluation.to_json(evaluation.verify(embeddings, pairs.same, folds=5, shuffle_seed=4))
    # The order of the colors does not change the cosine of raw pixels.
    assert results["pixels"]["auc"] == results["bgr"]["auc"]


def test_images_of_a_dataset_are_resized(run, face_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.write_dataset(data.ImageFolder(face_folder), "records")
    make_embedder(IResNet((1, 1), width=16, input_shape=(16, 16, 3)), dim=8).save("embedder.keras")
    command = ("evaluate", "embedder.keras", "--retrieval", "records", "folder=faces")
    failed = run(*command)
    assert failed.code == 1
    assert "embedder.keras expects images of 16 x 16" in failed.err
    done = run(*command, "--size", 16, 16)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())["retrieval"]
    assert results["records"]["embedder"]["queries"] == results["folder"]["embedder"]["queries"] == 12
