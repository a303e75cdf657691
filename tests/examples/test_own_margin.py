"""Runs the custom margin of docs/losses.md."""

import re
from pathlib import Path

import comparing
import numpy as np
import pytest
from gradients import with_centers

from keras_arcface import MarginProduct


@pytest.fixture(scope="module")
def page_names():
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class LinearMargin" in block)
    names = {"num_classes": comparing.CLASSES}
    exec(code, names)
    return names


def test_example_creates_a_head(page_names):
    assert isinstance(page_names["head"], MarginProduct)
    assert page_names["head"].margin.get_config() == {"m": 0.4}


def test_loss_and_gradients_match_the_formula(page_names):
    embeddings, labels, centers = comparing.problem()
    rows = np.arange(len(labels))

    def reference(embeddings, centers):
        cosines = comparing.unit(embeddings) @ comparing.unit(centers).T
        logits = 16 * cosines
        logits[rows, labels] = 16 * (1 - 2 * (np.arccos(cosines[rows, labels]) + 0.4) / np.pi)
        return np.log(np.exp(logits).sum(axis=1)) - logits[rows, labels]

    head = MarginProduct(comparing.CLASSES, margin=page_names["LinearMargin"](0.4), scale=16.0, chunk_size=3)
    comparing.assert_is(reference, with_centers(head, centers), embeddings, labels, centers)


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_training_continues_after_loading(page_names, sample_rate, tmp_path):
    embeddings, labels, _ = (array[:3] for array in comparing.problem())
    head = MarginProduct(comparing.CLASSES, margin=page_names["LinearMargin"](0.4), scale=8.0, sample_rate=sample_rate)
    loaded = comparing.assert_goes_on_after_loading(comparing.model_of(head), embeddings, labels, tmp_path)
    assert type(loaded.head.margin) is page_names["LinearMargin"]
