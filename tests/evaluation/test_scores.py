import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_arcface.evaluation import pair_scores
from keras_arcface.evaluation import score_blocks
from keras_arcface.evaluation.scores import full_precision
from keras_arcface.evaluation.vectors import l2_normalize


def rows(count, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


@pytest.mark.parametrize("block_bytes", [1, 4 * 30 * 4, 2**29])
def test_blocks_form_the_matrix(block_bytes):
    first, second = rows(13), rows(30, seed=1)
    blocks = list(score_blocks(first, second, block_bytes))
    assert [part.start for part, _ in blocks] == [0, *[part.stop for part, _ in blocks][:-1]]
    assert max(scores.nbytes for _, scores in blocks) <= max(block_bytes, 4 * 30)
    expected = first.astype(np.float64) @ second.astype(np.float64).T
    np.testing.assert_allclose(np.concatenate([scores for _, scores in blocks]), expected, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 4, 16, 32])
@pytest.mark.parametrize("frozen", [False, True])
def test_any_memory_alignment(offset, frozen):
    """Aligned arrays are passed without a copy. TensorFlow aborts the process for others."""
    memory = np.zeros(30 * 16 * 4 + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    second = memory[start : start + 30 * 16 * 4].view(np.float32).reshape(30, 16)
    second[:] = rows(30, seed=1)
    second.flags.writeable = not frozen
    for found in (second, second[::-1], np.asfortranarray(second), second[1:]):
        ((_, scores),) = score_blocks(rows(13), found)
        np.testing.assert_allclose(scores, rows(13).astype(np.float64) @ found.T.astype(np.float64), atol=1e-5)
    assert l2_normalize(second, "rows").ctypes.data % 64 == 0


@pytest.mark.parametrize("count", [5, 2000])  # by gathering, and by all products
def test_pair_scores(count):
    embeddings = rows(40)
    pairs = np.random.default_rng(2).integers(0, 40, (count, 2))
    expected = np.sum(embeddings[pairs[:, 0]].astype(np.float64) * embeddings[pairs[:, 1]], axis=1)
    np.testing.assert_allclose(pair_scores(embeddings, pairs, block_bytes=4 * 40 * 7), expected, atol=1e-5)


@pytest.mark.parametrize("count", [5, 2000])
@pytest.mark.parametrize("wrong", [[40, 0], [0, 40], [-1, 0]])
def test_pair_indices_out_of_range(count, wrong):
    pairs = np.zeros((count, 2), int)
    pairs[3] = wrong
    with pytest.raises(ValueError, match=rf"row indices of the 40 embeddings.* Received: pairs\[3\]=\[{wrong[0]}, "):
        pair_scores(rows(40), pairs)
    assert pair_scores(rows(40).astype(np.float64).tolist(), np.zeros((count, 2), int)).dtype == np.float32


def test_different_dimensions():
    with pytest.raises(ValueError, match=r"Received: shapes \(3, 16\) and \(3, 8\)"):
        next(score_blocks(rows(3), rows(3, dim=8)))


def test_no_rounding_to_tf32(monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the option exists only in TensorFlow")
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    before = enabled()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    seen, einsum = [], keras.ops.einsum

    def watched(*arguments):
        seen.append(enabled())
        return einsum(*arguments)

    monkeypatch.setattr(keras.ops, "einsum", watched)
    try:
        list(score_blocks(rows(4), rows(4), block_bytes=1))
        assert seen == [False] * 4
        assert enabled()
        with pytest.raises(KeyError), full_precision():
            raise KeyError
        assert enabled()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def test_errors_of_the_next_block_are_raised(monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    blocks = score_blocks(rows(4), rows(4), block_bytes=1)
    next(blocks)
    monkeypatch.setattr(keras.ops, "einsum", fail)
    with pytest.raises(MemoryError, match="no room"):
        list(blocks)
    assert list(score_blocks(rows(0), rows(4))) == []


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_other_backends(backend):
    pytest.importorskip(backend, reason=f"the backend {backend} is absent")
    code = """
import numpy as np, keras
from keras_arcface.evaluation.scores import score_blocks
generator = np.random.default_rng(0)
first, second = (generator.normal(size=(count, 64)).astype("float32") for count in (9, 20))
found = np.concatenate([scores for _, scores in score_blocks(first, second, 400)])
assert np.abs(found - first.astype(float) @ second.T.astype(float)).max() < 1e-5
print(keras.backend.backend())
"""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{backend}\n", done.stderr
