"""Search, compared with a plain product and sort."""

import threading

import numpy as np
import pytest

from keras_arcface.gallery import Gallery
from keras_arcface.gallery import search_engines
from keras_arcface.gallery.best_matches import BestMatches
from keras_arcface.gallery.quantization import quantize

MODES = [("float32", "exact"), ("int8", "exact"), ("float32", "faiss")]


def unit(rows):
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def clustered(rng, people, images, dim=32, spread=0.7):
    """Returns embeddings `(people, images, dim)` of norms other than 1."""
    centers = rng.normal(size=(people, 1, dim))
    return (centers + spread * rng.normal(size=(people, images, dim))).astype(np.float32)


def check_matches(matches, probes, templates, top_k):
    """Checks that the matches are the best people; those whose scores differ by rounding may change places."""
    scores = unit(probes) @ unit(templates).T
    best = -np.sort(-scores, axis=1)[:, :top_k]
    people = [[int(match.person) for match in row] for row in matches]
    assert all(len(set(row)) == top_k for row in people)
    np.testing.assert_allclose(np.take_along_axis(scores, np.array(people), axis=1), best, atol=1e-6)
    np.testing.assert_allclose([[match.score for match in row] for row in matches], best, atol=1e-6)


def open_gallery(path, precision, engine):
    if engine == "faiss":
        pytest.importorskip("faiss")
    return Gallery.open(path, precision=precision, engine=engine)


@pytest.mark.parametrize(("precision", "engine"), MODES)
@pytest.mark.parametrize("num_probes", [1, 3, 70])
def test_finds_what_a_plain_search_finds(path, rng, monkeypatch, precision, engine, num_probes):
    monkeypatch.setattr(search_engines, "_BLOCK_SCORES", 2**10)
    monkeypatch.setattr(search_engines, "_PART_BYTES", 2**12)
    monkeypatch.setattr(search_engines, "_PROBES_AT_ONCE", 32)
    images = clustered(rng, 900, 3)
    probes = clustered(rng, num_probes, 1)[:, 0] + images[:num_probes, 0]
    templates = unit(images.reshape(-1, 32)).reshape(900, 3, 32).mean(axis=1)
    with open_gallery(path, precision, engine) as gallery:
        gallery.enroll_many((str(person), rows, None) for person, rows in enumerate(images))
        check_matches(gallery.search(probes), probes, templates, 5)
        check_matches(gallery.search(probes, top_k=300), probes, templates, 300)


@pytest.mark.parametrize(("precision", "engine"), MODES)
def test_follows_all_changes(path, rng, precision, engine):
    images = clustered(rng, 40, 1)
    with open_gallery(path, precision, engine) as gallery:
        gallery.enroll_many((str(person), rows, None) for person, rows in enumerate(images[:30]))
        gallery.search(images[0])
        for person in range(10):
            gallery.remove(str(person))
        gallery.enroll_many((str(person), images[person], None) for person in range(30, 35))
        gallery.search(images[0])
        for person in range(10, 15):
            gallery.update(str(person), images[person - 10])
        gallery.enroll_many((str(person), images[person], None) for person in range(35, 40))
        assert len(gallery) == 30
        for person in range(10):
            best = gallery.search(images[person], top_k=1)[0][0].person
            assert best == str(person + 10) if person < 5 else best != str(person)
        for person in range(15, 40):
            assert gallery.search(images[person], top_k=1)[0][0].person == str(person)
        assert len(gallery.search(images[0], top_k=100)[0]) == 30


def test_int8_finds_the_same_as_float32_among_near_duplicates(path, rng):
    base = rng.normal(size=(1, 64))
    images = np.concatenate([base + 0.01 * rng.normal(size=(300, 64)), rng.normal(size=(700, 64))])
    probes = np.concatenate([images[:20], rng.normal(size=(20, 64))])
    with Gallery.open(path) as gallery, Gallery.open(path, precision="int8") as quantized:
        gallery.enroll_many((str(person), images[person : person + 1], None) for person in range(1000))
        check_matches(quantized.search(probes), probes, images, 5)
        scores = [[match.score for match in row] for row in gallery.search(probes)]
        assert max(row[0] - row[4] for row in scores[:20]) < quantized._matrix.largest_error / 50
        assert quantized._matrix.rows.dtype == np.int8
        assert quantized._matrix.rows.nbytes * 4 == gallery._matrix.rows.nbytes


def test_scores_do_not_depend_on_the_precision_or_the_other_probes(path, rng):
    images = clustered(rng, 800, 1)
    images[:100] = images[0] + 3e-4 * images[:100]  # whose scores differ by less than the rounding of a product
    probes = np.concatenate([images[:40, 0], rng.normal(size=(40, 32)).astype(np.float32)])
    with Gallery.open(path) as gallery, Gallery.open(path, precision="int8") as quantized:
        gallery.enroll_many((str(person), rows, None) for person, rows in enumerate(images))
        together = gallery.search(probes)
        assert quantized.search(probes) == together
        assert [gallery.search([probe])[0] for probe in probes] == together


def test_the_error_of_quantization_is_bounded(rng):
    templates = unit(rng.normal(size=(100, 48))).astype(np.float32)
    rows, scales, largest_error = quantize(templates)
    errors = np.linalg.norm(rows * scales[:, None].astype(np.float64) - templates, axis=1)
    assert errors.max() == pytest.approx(largest_error, rel=1e-5)
    assert largest_error < 0.02
    probes = unit(rng.normal(size=(50, 48)))
    assert np.abs(probes @ (rows * scales[:, None] - templates).T).max() <= largest_error


def test_equal_scores_have_a_fixed_order(gallery):
    gallery.enroll_many((str(person), [[1.0, 0.0]], None) for person in range(700))
    expected = [str(person) for person in range(5)]
    assert [match.person for match in gallery.search([[1.0, 0.5]])[0]] == expected
    assert [match.person for match in gallery.search([[1.0, 0.5]] * 20)[19]] == expected


def test_only_scores_from_the_threshold_on_are_matches(gallery):
    gallery.enroll("ann", [[1.0, 0.0]])
    gallery.enroll("bob", [[0.6, 0.8]])
    assert [match.person for match in gallery.search([[1.0, 0.0]], threshold=0.5)[0]] == ["ann", "bob"]
    assert [match.person for match in gallery.search([[1.0, 0.0]], threshold=0.7)[0]] == ["ann"]
    assert gallery.search([[-1.0, 0.0]], threshold=0)[0] == []
    assert len(gallery.search([[-1.0, 0.0]])[0]) == 2


def test_probes_without_a_direction_are_refused(gallery):
    gallery.enroll("ann", [[1.0, 0.0]])
    with pytest.raises(ValueError, match=r"embeddings must have rows that are finite and not zero.*: row 1"):
        gallery.search([[1.0, 0.0], [np.nan, 0.0]])


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_best_matches_keeps_the_highest_scores_and_those_within_the_margin(rng, margin):
    scores = rng.normal(size=(2000, 6)).astype(np.float32)
    scores[:, 5] = scores[0, 5]
    best = BestMatches(6, 7, margin, limit=50 if margin else 7)
    for start in range(0, 2000, 600):
        best.add(start, scores[start : start + 600])
    for probe, (slots, values) in enumerate(best.results()):
        order = np.lexsort((np.arange(2000), -scores[:, probe]))
        expected = order[scores[order, probe] >= scores[order[6], probe] - np.float32(margin)]
        expected = expected[:7] if margin == 0 else expected[:50]
        np.testing.assert_array_equal(slots, expected)
        np.testing.assert_array_equal(values, scores[expected, probe])


def test_threads_may_share_a_gallery(gallery, rng):
    images = clustered(rng, 60, 1)
    failures = []

    def enroll_and_search(first):
        try:
            for person in range(first, 60, 3):
                gallery.enroll(str(person), images[person])
                assert gallery.search(images[person], top_k=1)[0][0].person == str(person)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=enroll_and_search, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(gallery) == 60
