import json
import math
import re

import numpy as np
import pytest
from conftest import encode
from conftest import make_face
from html_page import Page

from keras_arcface.data import PairSet
from keras_arcface.evaluation import Report
from keras_arcface.evaluation import Table
from keras_arcface.evaluation import by_group
from keras_arcface.evaluation import pool_templates
from keras_arcface.evaluation import retrieve
from keras_arcface.evaluation import tables
from keras_arcface.evaluation import verify
from keras_arcface.evaluation import verify_templates


@pytest.fixture(scope="module")
def pairs():
    generator = np.random.default_rng(0)
    people = [(person, person if person % 2 else person + 50) for person in range(60)]
    images = [
        encode(make_face(person, int(generator.integers(9)), size=(16, 16)), (".png", ".jpg")[side])
        for pair in people
        for side, person in enumerate(pair)
    ]
    return PairSet(images, [first == second for first, second in people])


@pytest.fixture(scope="module")
def results(pairs):
    generator = np.random.default_rng(1)
    first = generator.normal(size=(60, 6))
    second = np.where(pairs.same[:, None], first, 0) + 0.9 * generator.normal(size=(60, 6))
    blind = generator.normal(size=(120, 6))
    return {
        "a <b> model": verify(np.stack([first, second], axis=1).reshape(120, 6), pairs.same),
        "blind": verify(blind, pairs.same),
    }


def test_page_is_complete_and_self_contained(results, pairs, tmp_path):
    report = Report("Two models", "A note & more.")
    report.add_verification("faces", results, pairs)
    report.add_table("shop", Table(["", "Recall@1"], [["a <b> model", "50.00%"]]), "All of them.")
    text = report.write(tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert {source.split(";")[0] for source in page.sources} == {
        "data:image/svg+xml",
        "data:image/png",
        "data:image/jpeg",
    }
    shown = "".join(page.text)
    assert "a <b> model: different people, accepted as the same" in shown
    assert f"{results['blind'].accuracy:.2%} ± {results['blind'].accuracy_std:.2%}" in shown
    assert "A note & more." in shown
    assert "50.00%" in shown


def test_groups_have_tables_and_a_plot(tmp_path):
    generator = np.random.default_rng(0)
    same, labels = np.arange(4000) % 2 == 0, np.array(["<old>", "young"])[np.arange(4000) // 2 % 2]
    result = by_group(generator.normal(same, 0.5), same, labels, threshold=0.6)
    report = Report("Groups")
    report.add_groups("people", {"a <b> model": result}, "A note & more.")
    page = Page(report.write(tmp_path / "report.html").read_text("utf-8"))
    assert page.open == []
    assert [source.split(";")[0] for source in page.sources] == ["data:image/svg+xml"]
    shown = "".join(page.text)
    for text in ("A note & more.", "<old>", "GARBE, alpha 0.5", f"{result.groups['young'].tar:.2%}"):
        assert text in shown
    with pytest.raises(ValueError, match=r"results must contain at least one result. Received: results=\{\}"):
        report.add_groups("people", {})


def test_gallery_shows_worst_errors(results, pairs, tmp_path):
    report = Report("One model")
    report.add_verification("faces", {"blind": results["blind"]}, pairs)
    text = report.write(tmp_path / "report.html").read_text("utf-8")
    result = results["blind"]
    for same, verdict in ((False, "accepted"), (True, "rejected")):
        errors = np.flatnonzero(~result.correct & (result.same == same))
        distance = np.abs(result.scores - result.grid.thresholds[result.fold_of_pair])
        worst = errors[np.argsort(-distance[errors])][:6]
        shown = re.findall(rf'class="{verdict}">{verdict}: (-?[\d.]+).*?<br>pair (\d+)', text)
        assert [int(pair) for _, pair in shown] == worst.tolist()
        assert [float(score) for score, _ in shown] == pytest.approx(result.scores[worst], abs=5e-4)


def test_images_of_each_format(results, tmp_path):
    suffixes = (".bmp", ".jpg", ".webp", ".tiff")
    faces = [encode(make_face(0, image, size=(16, 16)), suffixes[image % 4]) for image in range(120)]
    report = Report("One model")
    report.add_verification("faces", {"_$x$": results["blind"]}, PairSet(faces, results["blind"].same))
    text = report.write(tmp_path / "report.html").read_text("utf-8")
    assert set(re.findall("data:image/([a-z]+);", text)) == {"jpeg", "png"}
    assert "_$x$: the same person, rejected" in text


def test_wrong_arguments_of_a_section(results, pairs):
    report = Report("One model")
    with pytest.raises(ValueError, match="at least one result"):
        report.add_verification("none", {})
    other = PairSet(pairs.images[:20], pairs.same[:10])
    with pytest.raises(ValueError, match="the 60 pairs of the result of 'blind'"):
        report.add_verification("other", {"blind": results["blind"]}, other)


def test_template_result_to_json():
    generator = np.random.default_rng(0)
    ids, pooled = pool_templates(generator.normal(size=(30, 5)), np.repeat(np.arange(10), 3))
    pairs = generator.integers(0, 10, (50, 2))
    found = tables.to_json(verify_templates(pooled, ids, pairs, np.arange(50) % 2 == 0, progress=False))
    assert {"auc", "eer", "genuine_pairs", "impostor_pairs", "tar", "tar_published", "thresholds"} == set(found)
    assert found["impostor_pairs"] == 25
    assert json.dumps(tables.to_json({"a": np.bool_(True), "b": np.inf, "c": np.int64(3)})) == (
        '{"a": true, "b": null, "c": 3}'
    )


def test_table_as_text():
    table = Table(["", "AUC", "EER"], [["ours", "0.9", "1%"], ["a longer name", "0.95", "12%"]])
    assert str(table).splitlines() == [
        "                AUC  EER",
        "ours            0.9   1%",
        "a longer name  0.95  12%",
    ]


def test_tables_show_measurable_fars(results):
    table = tables.verification_table(results, intervals=False)
    assert table.columns == ["", "accuracy", "exact", "AUC", "EER", "TAR@0.1"]  # 30 impostor pairs
    assert [row[0] for row in table.rows] == ["a <b> model", "blind"]
    assert "[" in tables.verification_table(results).rows[0][1]
    thresholds = tables.threshold_table(results)
    point = results["blind"].at_far(0.1)
    assert thresholds.rows[1] == [
        *("blind", "0.1", f"{point.threshold:.4f}", f"{point.squared_distance:.4f}", f"{point.tar:.2%}", "3 of 30"),
        "0.021 to 0.27",
    ]


def test_verification_result_to_json(results):
    found = json.loads(json.dumps(tables.to_json(results["blind"]), allow_nan=False))
    assert found["accuracy"] == results["blind"].accuracy
    assert found["tar"]["0.1"] == results["blind"].tar[0.1]
    assert found["tar"]["1e-06"] is None
    assert found["tar_published"]["0.001"] == [None, None]
    assert len(found["grid"]["accuracies"]) == 10
    assert set(found["thresholds"]) == {"0.1"}
    assert found["thresholds"]["0.1"]["impostors"] == 30
    assert found["thresholds"]["0.1"]["squared_distance"] == 2 - 2 * found["thresholds"]["0.1"]["threshold"]
    assert found["exact"]["mean"] == results["blind"].exact.mean
    assert not any(isinstance(v, float) and math.isnan(v) for v in found["intervals_95"]["auc"])
    labels = np.repeat(np.arange(5), 2)
    other = tables.to_json(retrieve(np.random.default_rng(0).normal(size=(10, 4)), labels, ks=(1, 2), progress=False))
    assert set(other) == {"recall", "map_at_r", "r_precision", "queries", "skipped"}
    assert set(other["recall"]) == {"1", "2"}
