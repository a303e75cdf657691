"""`keras-arcface evaluate` on benchmarks of image retrieval, compared with plain programs for their protocols."""

import json

import cv2
import numpy as np
import pytest
import retrieval_trees
import scipy.io
from conftest import decode
from conftest import encode


def make_images(classes, counts, size=(32, 32), seed=0):
    """Returns `{class: encoded images}` that overlap so much that raw pixels confuse the classes."""
    images = {}
    for number, count in zip(classes, counts, strict=True):
        rng = np.random.default_rng([seed, number])
        pattern = cv2.resize(np.random.default_rng(number).normal(128, 12, (4, 4, 3)), size[::-1])
        noise = [cv2.resize(rng.normal(0, 30, (5, 5, 3)), size[::-1]) for _ in range(count)]
        images[number] = [encode(np.clip(pattern + one, 0, 255).astype(np.uint8)) for one in noise]
    return images


def embed(path, resize=None, size=None):
    """Returns the unit vector of the pixels of an image, after the preprocessing of the papers."""
    pixels = decode(path.read_bytes())
    if resize:
        height, width, _ = pixels.shape
        scale = resize / min(height, width)
        pixels = cv2.resize(pixels, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_AREA)
        top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
        pixels = pixels[top : top + size, left : left + size]
    vector = pixels.astype(np.float64).ravel()
    return vector / np.linalg.norm(vector)


def search(queries, gallery, ks):
    """Sorts the gallery for each query. Both are lists of `(name, class, vector)`.

    Returns:
        Recall@K, and the mean of the average precisions over the first R images.
    """
    recall, at_r = {k: 0 for k in ks}, []
    for name, class_, vector in queries:
        others = [(float(vector @ v), other) for n, other, v in gallery if n != name]
        ranked = [other == class_ for _, other in sorted(others, key=lambda pair: -pair[0])]
        for k in ks:
            recall[k] += any(ranked[:k])
        relevant = sum(ranked)
        at_r.append(sum(sum(ranked[: i + 1]) / (i + 1) for i in range(relevant) if ranked[i]) / relevant)
    return {str(k): found / len(queries) for k, found in recall.items()}, np.mean(at_r)


def read_cub(folder):
    rows = [line.split() for line in (folder / "images.txt").read_text().splitlines()]
    classes = dict(line.split() for line in (folder / "image_class_labels.txt").read_text().splitlines())
    return [(folder / "images" / name, int(classes[number])) for number, name in rows if int(classes[number]) > 100]


def read_cars(folder):
    rows = scipy.io.loadmat(folder / "cars_annos.mat")["annotations"][0]
    return [(folder / row[0][0], int(row[5][0, 0])) for row in rows if int(row[5][0, 0]) > 98]


def read_sop(folder):
    rows = [line.split() for line in (folder / "Ebay_test.txt").read_text().splitlines()[1:]]
    return [(folder / row[3], int(row[1])) for row in rows]


def read_in_shop(folder, part):
    rows = [line.split() for line in (folder / "Eval" / "list_eval_partition.txt").read_text().splitlines()[2:]]
    return [(folder / "Img" / name, item) for name, item, status in rows if status == part]


def figures(run, *arguments):
    """Returns the figures of raw pixels on the single set of a command, and its text output."""
    done = run("evaluate", "pixels", "--no-flip", *arguments)
    assert done.code == 0, done.err
    with open("evaluation/results.json", encoding="utf-8") as file:
        (((by_model,),),) = [[list(sets.values()) for sets in json.load(file).values()]]
    return by_model["pixels"], done.out


@pytest.mark.parametrize("name", ["cub", "cars", "sop"])
def test_each_image_is_searched_among_all_others_of_the_test_classes(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = make_images([1, 2], [3, 3], seed=1)
    test = make_images([101, 102, 150, 190, 196], [2, 3, 6, 4, 5])
    if name == "sop":
        retrieval_trees.write_sop(tmp_path / "set", train, test)
    else:
        write = retrieval_trees.write_cub if name == "cub" else retrieval_trees.write_cars
        write(tmp_path / "set", {**train, **test})
    read = {"cub": read_cub, "cars": read_cars, "sop": read_sop}[name]
    ks = (1, 10) if name == "sop" else (1, 2, 4, 8)  # 100 and 1000 are more than the 19 other images
    images = [(path, class_, embed(path)) for path, class_ in read(tmp_path / "set")]
    recall, map_at_r = search(images, images, ks)
    found, text = figures(run, f"--{name}", "set")
    assert found["recall"] == pytest.approx(recall, abs=1e-12)
    assert found["map_at_r"] == pytest.approx(map_at_r, abs=1e-12)
    assert found["queries"] == 20
    assert 0.2 < recall["1"] < 0.95
    assert "20 queries, each against all other images.\n" in text


def test_queries_of_in_shop_are_searched_in_the_gallery(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = range(2, 14)
    query, gallery = make_images(items, [2] * 12, seed=1), make_images(items, [4] * 12)
    retrieval_trees.write_in_shop(tmp_path / "set", {1: query[2]}, query, gallery, nested=True)
    queries, images = (
        [(path, item, embed(path)) for path, item in read_in_shop(tmp_path / "set", part)]
        for part in ("query", "gallery")
    )
    recall, map_at_r = search(queries, images, (1, 10, 20, 30))
    found, text = figures(run, "--in-shop", "set", "--nmi")
    assert found["recall"] == pytest.approx(recall, abs=1e-12)
    assert found["map_at_r"] == pytest.approx(map_at_r, abs=1e-12)
    assert 0.2 < recall["1"] < recall["10"] < 1
    assert 0 < found["nmi"] < 1
    assert "24 queries, each against 48 gallery images.\n" in text
    assert "NMI" in text


def test_the_center_is_cropped_after_resizing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wide = make_images([101, 102], [4, 4], size=(64, 96))
    tall = make_images([150, 200], [4, 4], size=(128, 64), seed=2)
    retrieval_trees.write_cub(tmp_path / "set", {**wide, **tall})
    images = [(path, class_, embed(path, resize=32, size=28)) for path, class_ in read_cub(tmp_path / "set")]
    recall, map_at_r = search(images, images, (1, 2, 4, 8))
    found, text = figures(run, "--cub", "set", "--resize", 32, "--size", 28, 28)
    assert found["recall"] == pytest.approx(recall, abs=1e-12)
    assert found["map_at_r"] == pytest.approx(map_at_r, abs=1e-12)
    assert "Images resized to a shorter side of 32, and cropped to the central 28 x 28." in text
    stretched, text = figures(run, "--cub", "set", "--size", 28, 28)
    assert stretched["map_at_r"] != found["map_at_r"]
    assert "Images resized to 28 x 28." in text
    # The same images as a folder of folders have the same figures.
    folder, _ = figures(run, "--retrieval", "set/images", "--resize", 32, "--size", 28, 28)
    assert folder["map_at_r"] == found["map_at_r"]


def test_errors_of_retrieval_sets(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("evaluate", "pixels", "--cub", tmp_path)
    assert done.code == 1
    assert "error: directory must contain images.txt, image_class_labels.txt, classes.txt of CUB-200-2011" in done.err
    done = run("evaluate", "pixels", "--sop", tmp_path, "--resize", 256)
    assert done.code == 2
    assert "--resize requires a --size of at most 256 x 256. Received: no --size" in done.err
