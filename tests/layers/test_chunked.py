"""The chunked loss against float64, whatever the sizes."""

import copy
import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
import references
from gradients import mean_loss_gradients
from gradients import with_centers
from keras import ops
from references import problem

from keras_arcface import MarginProduct
from keras_arcface import RecognitionModel
from keras_arcface import _processor
from keras_arcface.layers import MVSoftmax
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked import chunking
from keras_arcface.margins import CombinedMargin

MARGINS = {
    "ArcFace": {"m2": 0.5},
    "CosFace": {"m3": 0.35},
    "SphereFace": {"m1": 1.35},
    "combined": {"m1": 0.9, "m2": 0.4, "m3": 0.15},
}
# batch, classes, dim, block size
SIZES = [
    (1, 2, 1, 1),
    (3, 2, 5, 1),
    (17, 41, 24, 40),
    (17, 41, 24, 7),
    (64, 1000, 512, 256),
    (257, 1003, 8, 500),
    (5, 100_003, 16, 10_000),  # more than one part per chunk
]
# The margin sees only the target and the chunks only the other classes, so one margin is enough for most runs.
CASES = [
    pytest.param(*size, margin, id=f"{name}-{size}", marks=() if name == "ArcFace" else pytest.mark.slow)
    for size in SIZES
    for name, margin in MARGINS.items()
]


@pytest.mark.parametrize(("batch", "classes", "dim", "block", "margin"), CASES)
@pytest.mark.parametrize("memory", [0, 2**40], ids=["again", "kept"])
def test_loss_and_gradients_in_chunks_equal_the_formula(batch, classes, dim, block, margin, memory):
    embeddings, labels, centers = problem(batch, classes, dim)
    for scale in (1.0, 30.0, 128.0) if classes == 41 and block == 7 else (30.0,):
        head = MarginProduct(
            classes, margin=CombinedMargin(**margin), scale=scale, chunk_size=block, max_cache_bytes=memory
        )
        with_centers(head, centers)
        exact = embeddings.astype("float64"), centers.astype("float64")
        losses = ops.convert_to_numpy(head.loss(labels, embeddings))
        expected = references.losses(*exact, labels, scale, **margin)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5 * scale)
        wanted = references.mean_loss_gradients(*exact, labels, scale, **margin)
        for gradient, right in zip(mean_loss_gradients(head, embeddings, centers, labels), wanted, strict=True):
            # With one dimension the cosines are 1 and -1 whatever the embeddings, and the gradient is 0.
            size = np.abs(right).max() if dim > 1 else scale / batch
            assert np.abs(gradient - right).max() < 1e-5 * size


def slow_losses(embeddings, centers, labels, scale, ignored_above=1.0, **margin):
    """One example, one class and one sub-center after another, in float64."""
    losses = []
    for embedding, label in zip(embeddings, labels, strict=True):
        cosines = [
            max(embedding @ center / np.linalg.norm(embedding) / np.linalg.norm(center) for center in of_class)
            for of_class in centers
        ]
        own = scale * references.psi(np.arccos(cosines[label]), **margin)
        others = [scale * c for i, c in enumerate(cosines) if i != label and c <= ignored_above]
        losses.append(np.logaddexp.reduce([own, *others]) - own)
    return np.array(losses)


@pytest.mark.parametrize("memory", [0, 2**40], ids=["again", "kept"])
@pytest.mark.parametrize("block", [5, 11])
@pytest.mark.parametrize(
    ("sub_centers", "ignored_above"), [(3, 1.0), (1, 0.2), (3, 0.35)], ids=["sub-centers", "filter", "both"]
)
def test_sub_centers_and_the_noise_filter_equal_the_formula(sub_centers, ignored_above, block, memory):
    generator = np.random.default_rng(1)
    embeddings, labels = generator.normal(size=(7, 5)).astype("float32"), generator.integers(0, 11, 7)
    shape = (11, 5) if sub_centers == 1 else (11, sub_centers, 5)
    centers = generator.normal(size=shape).astype("float32")
    choices = {"sub_centers": sub_centers, "ignored_above": ignored_above}
    head = MarginProduct(
        11, margin=CombinedMargin(m2=0.5), scale=8.0, chunk_size=block, max_cache_bytes=memory, **choices
    )
    with_centers(head, centers)

    def reference(embeddings, centers):
        centers = centers.reshape(11, sub_centers, 5)
        return slow_losses(embeddings, centers, labels, 8.0, ignored_above, m2=0.5)

    exact = embeddings.astype("float64"), centers.astype("float64")
    if ignored_above < 1:
        assert (reference(*exact) < slow_losses(exact[0], exact[1].reshape(11, -1, 5), labels, 8.0, m2=0.5)).any()
    np.testing.assert_allclose(ops.convert_to_numpy(head.loss(labels, embeddings)), reference(*exact), rtol=1e-5)
    by_embeddings, by_centers = mean_loss_gradients(head, embeddings, centers, labels)
    right = references.slopes(lambda e: reference(e, exact[1]).mean(), exact[0])
    np.testing.assert_allclose(by_embeddings, right, rtol=1e-4, atol=1e-6)
    right = references.slopes(lambda c: reference(exact[0], c).mean(), exact[1])
    np.testing.assert_allclose(by_centers, right, rtol=1e-4, atol=1e-6)
    # A cross-entropy of the logits is the same loss; before, the filter was ignored there.
    logits = ops.convert_to_numpy(head(embeddings, labels)).astype("float64")
    of_logits = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(7), labels]
    np.testing.assert_allclose(of_logits, reference(*exact), rtol=1e-5)
    plain = ops.convert_to_numpy(head(embeddings)) / 8.0
    highest = np.einsum(
        "bd,ckd->bck", *(a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (exact[0], exact[1].reshape(11, -1, 5)))
    ).max(axis=2)
    np.testing.assert_allclose(plain, highest, rtol=1e-5, atol=1e-6)


def test_where_the_filter_leaves_no_other_class_the_loss_is_zero():
    centers = np.eye(3, dtype="float32") + 0.5
    head = with_centers(MarginProduct(3, margin=CombinedMargin(m2=0.5), scale=16.0, ignored_above=-0.5), centers)
    np.testing.assert_array_equal(ops.convert_to_numpy(head.loss(np.array([0, 1]), centers[:2])), [0, 0])
    for gradient in mean_loss_gradients(head, centers[:2], centers, np.array([0, 1])):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_hits_count_ignored_classes():
    """It is a measure, and the filter is of the loss."""
    centers = np.eye(3, dtype="float32")
    head = with_centers(MarginProduct(3, ignored_above=0.2), centers)
    nearer_to_another = np.float32([[0.5, 1.0, 0.0]])
    _, _, hits = head.loss_and_stats(np.array([0]), nearer_to_another)
    assert not ops.convert_to_numpy(hits)[0]


def test_straight_through_lets_gradients_pass_the_margin_unchanged():
    """As in arcface_torch: the loss is that of the margin, its slope by the target's cosine as if there were none."""
    embeddings, labels, centers = problem(6, 9, 4)
    formula, passing = (
        with_centers(MarginProduct(9, margin=CombinedMargin(m2=0.5), scale=8.0, straight_through=s), centers)
        for s in (False, True)
    )
    np.testing.assert_array_equal(*(ops.convert_to_numpy(h.loss(labels, embeddings)) for h in (formula, passing)))
    exact = embeddings.astype("float64"), centers.astype("float64")
    right = references.mean_loss_gradients(*exact, labels, 8.0, straight_through=True, m2=0.5)
    for gradient, wanted in zip(mean_loss_gradients(passing, embeddings, centers, labels), right, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 64.0, 70.0, 71.0, 128.0])
def test_at_the_ends_of_the_cosine(scale):
    """All cosines are 1 or -1: unscaled sums of exponentials overflow or vanish."""
    classes, labels = 3000, np.array([5, 2999])
    embeddings = np.array([[2.0, 0.0]] * 2, "float32")
    head = MarginProduct(classes, margin=None, scale=scale, chunk_size=512)
    head.build((None, 2))
    for own, others in itertools.product((1.0, -1.0), repeat=2):
        centers = np.full((classes, 1), others, "float32")
        centers[labels] = own
        centers = np.concatenate([centers, np.zeros_like(centers)], axis=1)
        head.centers.assign(centers)
        losses, cosines, hits = (ops.convert_to_numpy(part) for part in head.loss_and_stats(labels, embeddings))
        # The center of the other label is one of the other classes, at the same end as the own center.
        rest = np.logaddexp(np.log(classes - 2) + scale * others, scale * own)
        np.testing.assert_allclose(losses, np.logaddexp(0, rest - scale * own), rtol=1e-5, atol=1e-30)
        np.testing.assert_allclose(cosines, own, rtol=1e-6)
        assert not hits.any()  # at least a tie with the other label
        for gradient in mean_loss_gradients(head, embeddings, centers, labels):
            assert np.isfinite(gradient).all()


def test_ten_million_classes():
    """All at the highest cosine, so that their sum is the largest that there can be."""
    classes = 10_000_000
    head = with_centers(MarginProduct(classes, margin=None, scale=64.0), np.ones((classes, 1), "float32"))
    losses = ops.convert_to_numpy(head.loss(np.array([3]), np.ones((1, 1), "float32")))
    np.testing.assert_allclose(losses, np.log(classes), atol=2e-5)  # so the sum is that exact


def bfloat16_error():
    """Returns the largest relative error of a product that is stored as bfloat16.

    It is half of the distance between two bfloat16 numbers if the backend rounds to the nearest one. TensorFlow
    truncates on CPUs without AVX-512, so that the error is twice as large.
    """
    rows, columns = np.zeros((64, 128), "float32"), np.zeros((128, 300), "float32")
    rows[:, 0], rows[:, 1], columns[:2] = 1.0, 1.5 * 2**-8, 1.0  # the sum is nearer to 1 + 2**-7 than to 1
    product = ops.matmul(ops.cast(rows, "bfloat16"), ops.cast(columns, "bfloat16"))
    return 2**-8 if np.all(ops.convert_to_numpy(ops.cast(product, "float32")) > 1) else 2**-7


def test_bfloat16_products_are_accurate_to_their_precision(monkeypatch):
    monkeypatch.setattr(backends.current(), "is_fast", lambda dtype: True)
    error = bfloat16_error()
    embeddings, labels, centers = problem(64, 1000, 128)
    exact = embeddings.astype("float64"), centers.astype("float64")
    for memory in (0, 2**40):
        head = MarginProduct(
            1000,
            margin=CombinedMargin(m2=0.5),
            scale=16.0,
            chunk_size=300,
            max_cache_bytes=memory,
            matmul_dtype="bfloat16",
        )
        with_centers(head, centers)
        losses = ops.convert_to_numpy(head.loss(labels, embeddings))
        expected = references.losses(*exact, labels, 16.0, m2=0.5)
        assert not np.allclose(losses, expected, rtol=1e-6)  # it does round
        np.testing.assert_allclose(losses, expected, atol=16 * error)
        wanted = references.mean_loss_gradients(*exact, labels, 16.0, m2=0.5)
        for gradient, right in zip(mean_loss_gradients(head, embeddings, centers, labels), wanted, strict=True):
            difference = np.linalg.norm(gradient - right) / np.linalg.norm(right)
            print(f"gradient in bfloat16: {difference:.1e} of its norm")
            assert difference < 2**-6


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch multiplies rounded inputs as float32")
def test_bfloat16_products_are_float32_on_a_cpu_without_bfloat16(monkeypatch, caplog):
    chunking._warn_of_float32.cache_clear()
    monkeypatch.setattr(_processor, "has_bfloat16", lambda: False)
    embeddings, labels, centers = problem(16, 300, 32)
    losses = []
    for dtype in ("float32", "bfloat16", "bfloat16"):
        head = with_centers(MarginProduct(300, margin=CombinedMargin(m2=0.5), matmul_dtype=dtype), centers)
        losses.append(ops.convert_to_numpy(head.loss(labels, embeddings)))
        assert head.get_config()["matmul_dtype"] == dtype
    np.testing.assert_array_equal(losses[1], losses[0])
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "matmul_dtype='bfloat16' is slower than float32 on this CPU"
    ]
    monkeypatch.setattr(_processor, "has_bfloat16", lambda: True)
    assert chunking.choose(16, (300, 32), matmul_dtype="bfloat16").matmul_dtype == "bfloat16"


def test_tensorfloat32_products_are_accurate_to_their_precision():
    embeddings, labels, centers = problem(16, 300, 32)
    losses = []
    for products in ("float32", "tensorfloat32"):
        head = with_centers(
            MarginProduct(300, margin=CombinedMargin(m2=0.5), chunk_size=100, matmul_dtype=products), centers
        )
        losses.append(ops.convert_to_numpy(head.loss(labels, embeddings)))
    np.testing.assert_allclose(*losses, rtol=2**-9)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch has no XLA here")
@pytest.mark.parametrize(
    "choices",
    [
        {},
        *(
            pytest.param(choice, marks=pytest.mark.slow)
            for choice in ({"sample_rate": 0.5}, {"matmul_dtype": "bfloat16"})
        ),
    ],
    ids=["exact", "sampled", "bfloat16"],
)
def test_a_model_compiled_by_xla_trains_the_same(choices, monkeypatch):
    monkeypatch.setattr(backends.current(), "is_fast", lambda dtype: True)
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(48, 8)).astype("float32"), generator.integers(0, 40, 48)
    losses = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        model = RecognitionModel(
            embedder, MarginProduct(40, margin=CombinedMargin(m2=0.5), scale=16.0, chunk_size=16, **choices)
        )
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=jit_compile)
        losses.append(model.fit(inputs, labels, batch_size=20, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=2e-2 if "matmul_dtype" in choices else 1e-4)


def test_deleting_a_head_frees_its_compiled_functions():
    """Four deleted MVSoftmax heads left four compiled entries in a cache of the module."""
    head = MVSoftmax(9, chunk_size=4)
    head.loss(np.array([0, 1]), np.ones((2, 3), "float32"))
    compiled = [weakref.ref(function) for pair in head._engine._compiled.values() for function in pair]
    assert compiled
    assert all(reference() is not None for reference in compiled)
    del head
    gc.collect()
    assert [reference() for reference in compiled] == [None] * len(compiled)


def test_a_copy_of_a_head_compiles_its_own_functions():
    head = MarginProduct(9)
    head.loss(np.array([0, 1]), np.ones((2, 3), "float32"))
    assert copy.copy(head._engine)._compiled == {}
