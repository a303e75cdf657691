import re

import numpy as np
import pytest
from html_page import Page

from keras_arcface import data
from keras_arcface.evaluation import embed_images
from keras_arcface.evaluation import find_overlap
from keras_arcface.evaluation import overlap_page
from keras_arcface.evaluation import write_overlap_page


def pixels(source):
    return embed_images(lambda images: images.reshape(len(images), -1) - 127.5, source, flip=False, progress=False)


@pytest.fixture
def folder(face_folder):
    return data.ImageFolder(face_folder)


def test_pairs_of_two_sets(folder, tmp_path):
    embeddings = pixels(folder)
    pairs = data.PairSet([folder[0].image, folder[1].image, folder[7].image, folder[4].image], [True, False])
    others = data.PairImages(pairs)
    overlap = find_overlap(embeddings, folder.labels, pixels(others), others.labels, 0.8, progress=False)
    assert overlap.first_labels.tolist() == [folder.labels[row] for row in overlap.first_rows]
    path = write_overlap_page(tmp_path / "page.html", overlap, folder, others)
    page = Page(path.read_text("utf-8"))
    assert page.open == []
    headings = [text for text in page.text if re.match(r"\d\. ", text)]
    assert sorted(heading[3:] for heading in headings) == [
        "person_0 and image 0 (of pair 0)",
        "person_1 and image 3 (of pair 1)",
        "person_2 and image 2 (of pair 1)",
    ]
    text = "".join(page.text)
    assert "3 pairs of 9 have a score of at least 0.800. There are too few people" in text
    assert f"score {overlap.scores[0]:.3f}, cosine of the framed images {overlap.image_scores[0]:.3f}" in text
    shown = [text for text in page.text if text.startswith("person_2/")]
    best = folder[int(overlap.first_rows[overlap.first_labels == 2][0])].name
    assert len(shown) == len(set(shown)) == 4
    assert shown[0] == best
    assert "1 more" in text
    assert len(page.sources) == (4 + 2) + (3 + 1) + (4 + 1)
    assert all(source.startswith("data:image/") for source in page.sources)


def test_pairs_of_one_set(folder, tmp_path, monkeypatch):
    folder.num_classes, folder.class_names = 5, None
    source = data.Relabeled(folder, [0, 0, 3, 3, 1, 1, 1, 2, 2, 4, 4, 4])
    overlap = find_overlap(pixels(source), source.labels, threshold=0.8, progress=False)
    path = write_overlap_page(tmp_path / "page.html", overlap, source)
    text = "".join(Page(path.read_text("utf-8")).text)
    assert "Same people in 12 images of ImageFolder" in text
    assert "class 0 and class 3" in text
    assert "class 2 and class 4" in text
    assert "2 pairs of 10" in text
    monkeypatch.setattr(overlap_page, "_MAX_PAIRS", 1)
    text = "".join(Page(write_overlap_page(path, overlap, source).read_text("utf-8")).text)
    assert "2 pairs of 10 have a score of at least 0.800, of which 1 are shown." in text
    assert text.count("cosine of the framed images") == 1


def test_names_are_escaped(folder, tmp_path):
    folder.class_names = ["<b>", "&", "c"]
    overlap = find_overlap(pixels(folder), folder.labels, threshold=-1, progress=False)
    page = Page(write_overlap_page(tmp_path / "page.html", overlap, folder).read_text("utf-8"))
    assert "b" not in {tag for tag, _ in page.tags}
    assert any("<b> and &" in text for text in page.text)


def test_expected_number_of_false_alarms(tmp_path):
    class Images(data.Source):
        labels = np.arange(300)

        def __len__(self):
            return 300

        def __getitem__(self, index):
            raise AssertionError("no image is shown")

    embeddings = np.random.default_rng(0).normal(size=(300, 64))
    overlap = find_overlap(embeddings, Images.labels, false_alarms=1e-6, progress=False)
    text = "".join(Page(write_overlap_page(tmp_path / "page.html", overlap, Images()).read_text("utf-8")).text)
    assert "0 pairs of 44,850" in text
    assert "1e-06 false alarms are expected." in text
