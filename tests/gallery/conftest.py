"""Galleries and embeddings that several tests share."""

import numpy as np
import pytest

from keras_arcface.gallery import Gallery


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people.db"


@pytest.fixture
def gallery(path):
    with Gallery.open(path) as gallery:
        yield gallery


@pytest.fixture
def rng():
    return np.random.default_rng(0)
