"""QMargin against its definition in float64, whether the pairs with a probability are listed or not."""

import copy

import keras
import numpy as np
import pytest
import references
from gradients import mean_loss_gradients
from gradients import with_centers
from keras import ops
from references import problem

from keras_arcface import CosFace
from keras_arcface import RecognitionModel
from keras_arcface.layers import QMargin
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked import chunking
from keras_arcface.layers.chunked import pairs
from keras_arcface.layers.chunked import sparse
from keras_arcface.layers.chunked.divergence import AlphaDivergence

# The others take as long, and differ in one number.
ALPHAS = [1.25, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (1.1, 1.5, 2.0))]
# batch, classes, dim, chunk size
SIZES = [
    (1, 2, 1, None),
    (3, 2, 5, 1),
    (17, 41, 24, 7),
    (64, 1000, 512, 256),
    (257, 1003, 8, 500),
    (257, 5000, 64, None),
    (5, 100_003, 16, 10_000),
]


def check(embeddings, labels, centers, head=None, scale=64.0, margin=0.35, alpha=1.5, **choices):
    """Compares losses and gradients with the definition.

    A given `head`, which has the other arguments, is not compiled again.
    """
    head = head or QMargin(len(centers), margin=margin, scale=scale, alpha=alpha, **choices)
    if not head.built:
        head.build((None, centers.shape[-1]))
    head.centers.assign(centers)
    exact = embeddings.astype("float64"), centers.astype("float64"), labels, scale, margin, alpha
    right = references.divergence_losses(*exact)
    np.testing.assert_allclose(
        ops.convert_to_numpy(head.loss(labels, embeddings)), right, rtol=1e-5, atol=1e-5 * max(1, right.max())
    )
    found = mean_loss_gradients(head, embeddings, centers, labels)
    for gradient, right in zip(found, references.divergence_gradients(*exact), strict=True):
        # With one dimension, the cosines are 1 and -1, and the gradients are 0.
        size = max(np.abs(right).max(), 1e-6) if embeddings.shape[1] > 1 else scale / len(labels)
        assert np.abs(gradient - right).max() < 1e-5 * size
    return found


def use_bfloat16(choice, monkeypatch):
    """Searches in bfloat16 or float32, whatever is faster here. PyTorch always searches in float32."""
    name = {"tensorflow": "is_fast", "jax": "_is_faster_in_bfloat16", "torch": "is_fast"}[keras.backend.backend()]
    monkeypatch.setattr(backends.current(), name, lambda *_: choice)


@pytest.mark.parametrize(("batch", "classes", "dim", "chunk"), SIZES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_loss_and_gradients_equal_the_definition(batch, classes, dim, chunk, alpha):
    embeddings, labels, centers = problem(batch, classes, dim)
    check(embeddings, labels, centers, alpha=alpha, chunk_size=chunk)
    if classes == 41:
        for scale in (1.0, 128.0):
            check(embeddings, labels, centers, scale=scale, alpha=alpha, chunk_size=chunk)
        check(embeddings, labels, centers, margin=0.0, alpha=alpha)
        check(embeddings, labels, centers, alpha=alpha - 0.01)  # whose powers are not integers


@pytest.mark.parametrize("forward", ["pairs", "all", "all, without a cache"])
@pytest.mark.parametrize("backward", ["pairs", "all"])
@pytest.mark.parametrize("fast", [False, True], ids=["float32", "bfloat16"])
def test_pairs_and_all_classes_give_the_same(forward, backward, fast, monkeypatch):
    """A list that is too long is replaced by all classes, and so are many pairs in the gradient."""
    use_bfloat16(fast, monkeypatch)
    called = []
    for name in ("_solve_all", "_solve_pairs", "_backward_of_pairs"):
        method = getattr(sparse.SparseDivergence, name)
        monkeypatch.setattr(
            sparse.SparseDivergence, name, lambda *a, n=name, m=method, **k: (called.append(n), m(*a, **k))[1]
        )
    monkeypatch.setattr(pairs, "BLOCK", 16)
    monkeypatch.setattr(sparse, "_MAX_CACHE_BYTES", 0 if "without" in forward else 2**28)
    if "all" in forward:
        monkeypatch.setattr(pairs, "SHORTEST_LIMIT", 0)
        monkeypatch.setattr(pairs, "_LONGEST_LIMIT", 1)
    if backward == "all":
        monkeypatch.setattr(pairs, "SHORTEST_LIMIT", 0 if "all" in forward else 20)
        monkeypatch.setattr(sparse, "_FASTER_UP_TO", 0.0)
    embeddings, labels, centers = problem(40, 301, 16)
    check(embeddings, labels, centers, alpha=1.25, scale=30.0, chunk_size=50)
    if keras.backend.backend() == "torch":  # the others trace both
        wanted = {"_solve_all" if "all" in forward else "_solve_pairs"}
        wanted |= set() if "all" in forward + backward else {"_backward_of_pairs"}
        assert set(called) == wanted


@pytest.mark.parametrize("fast", [False, True], ids=["float32", "bfloat16"])
def test_products_of_the_search_have_at_most_the_stated_error(fast, monkeypatch):
    """Otherwise, a pair with a probability could be missing from the list."""
    use_bfloat16(fast, monkeypatch)
    generator = np.random.default_rng(0)
    rounded = np.full((1, 512), 1 + 2.0**-8 + 2.0**-16)  # up in every entry, by almost 2**-8
    rows = np.concatenate([generator.normal(size=(300, 512)), rounded, -rounded])
    rows = references.unit(rows).astype("float32")
    centers = (rows * generator.uniform(0.1, 10, (302, 1))).astype("float32")
    right = rows.astype("float64") @ references.unit(centers.astype("float64")).T
    approximate = pairs._Approximate(ops.convert_to_tensor(rows), None, 1, 1.0)
    inverse = ops.convert_to_tensor((1 / np.linalg.norm(centers, axis=1)).astype("float32"))
    products, errors = approximate.products(ops.convert_to_tensor(centers), inverse)
    cosines, errors = approximate.cosines(products, inverse, ops.expand_dims(errors, 1))
    differences, errors = np.abs(ops.convert_to_numpy(cosines) - right), ops.convert_to_numpy(errors)
    print(f"{differences.max():.5f} of {errors.max():.5f}")
    assert (differences < errors).all()
    if fast and keras.backend.backend() != "torch":
        assert errors.max() > 1e-3
        assert differences.max() > 0.2 * errors.max()


@pytest.mark.parametrize("alpha", [1.1, 1.25, 1.33, 2.0])
@pytest.mark.parametrize("ignored_above", [1.0, 0.5])
def test_raised_limits_are_higher_but_below_all_classes_with_a_probability(alpha, ignored_above, monkeypatch):
    use_bfloat16(False, monkeypatch)
    embeddings, labels, centers = problem(20, 400, 8)
    rows = references.unit(embeddings.astype("float64"))
    cosines = rows @ references.unit(centers.astype("float64")).T
    cosines[cosines > ignored_above] = -10  # these do not count, as the target classes
    cosines[np.arange(20), labels] = -10
    divergence, scale = AlphaDivergence(alpha), 20.0
    right = references.divergence_probabilities(scale * cosines, labels, 0.0, alpha)[1] - divergence.width
    right, highest = right / scale, cosines.max(axis=1).astype("float32")

    inverse = ops.convert_to_tensor((1 / np.linalg.norm(centers, axis=1)).astype("float32"))
    rows, labels = ops.convert_to_tensor(rows.astype("float32")), ops.convert_to_tensor(labels)
    approximate = pairs._Approximate(rows, labels, 1, ignored_above)
    products, errors = approximate.products(ops.convert_to_tensor(centers), inverse)
    chunk = pairs._Products(products, inverse, errors, 0, 400)
    limits = sparse._Limits(divergence, {"scale": scale, "margin": 0.0}, ops.zeros(20))
    start = limits.of_highest(ops.convert_to_tensor(highest))
    raised = ops.convert_to_numpy(approximate.raised(limits)(chunk, start))
    gained, possible = (limit - ops.convert_to_numpy(start) for limit in (raised, right))
    assert possible.max() > 0.01
    assert (gained <= possible + 1e-6).all()
    assert (gained >= 0.5 * possible - 1e-4).all()


def test_close_to_alpha_1_it_is_cosface():
    embeddings, labels, centers = problem(40, 301, 16)
    heads = [with_centers(make(301, margin=0.35, scale=30.0), centers) for make in (CosFace, near_cosface)]
    losses = [ops.convert_to_numpy(head.loss(labels, embeddings)) for head in heads]
    np.testing.assert_allclose(*losses, rtol=0.02, atol=0.01)
    check(embeddings, labels, centers, alpha=1.001, scale=30.0)
    gradients = [mean_loss_gradients(head, embeddings, centers, labels) for head in heads]
    for right, found in zip(*gradients, strict=True):
        assert np.abs(found - right).max() < 0.02 * np.abs(right).max()


def near_cosface(num_classes, **choices):
    return QMargin(num_classes, alpha=1.001, **choices)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_at_the_ends_of_the_cosine(alpha):
    axis, labels, centers = np.eye(4, dtype="float32")[:1], np.array([0, 1, 2]), problem(3, 9, 4)[2]
    same, opposite = np.repeat(axis, 3, axis=0), -np.repeat(axis, 3, axis=0)
    head = QMargin(9, alpha=alpha)
    check(same, labels, np.repeat(axis, 9, axis=0), head, alpha=alpha)  # all cosines are 1
    check(same, labels, np.concatenate([axis, *[-axis] * 8]), head, alpha=alpha)
    check(opposite, labels, np.concatenate([axis, *[-axis] * 8]), head, alpha=alpha)
    check(np.zeros_like(same), labels, centers, head, alpha=alpha)
    centers[1] = 0
    check(same, labels, centers, head, alpha=alpha)


@pytest.mark.parametrize(
    ("sub_centers", "ignored_above"), [(3, 1.0), (1, 0.2), (3, 0.35)], ids=["sub-centers", "filter", "both"]
)
@pytest.mark.parametrize("longest", [2**23, 1], ids=["pairs", "all"])
def test_sub_centers_and_the_noise_filter_equal_the_formula(sub_centers, ignored_above, longest, monkeypatch):
    monkeypatch.setattr(pairs, "_LONGEST_LIMIT", longest)
    generator = np.random.default_rng(1)
    embeddings, labels = generator.normal(size=(7, 5)).astype("float32"), generator.integers(0, 11, 7)
    centers = generator.normal(size=(11, 5) if sub_centers == 1 else (11, sub_centers, 5)).astype("float32")
    choices = {"sub_centers": sub_centers, "ignored_above": ignored_above, "chunk_size": 5}
    head = with_centers(QMargin(11, scale=8.0, alpha=1.25, **choices), centers)

    def reference(embeddings, centers):
        cosines = np.einsum("bd,ckd->bck", references.unit(embeddings), references.unit(centers.reshape(11, -1, 5)))
        cosines, losses = cosines.max(axis=2), []
        for row, label in zip(cosines, labels, strict=True):
            counts = row <= ignored_above
            counts[label] = True
            kept = row[counts]
            # The classes as vectors whose cosines to the first axis are given.
            vectors = np.stack([kept, np.sqrt(1 - kept**2)], axis=1)
            own = np.array([counts[:label].sum()])
            losses.append(references.divergence_losses(np.eye(2)[:1], vectors, own, 8.0, 0.35, 1.25)[0])
        return np.array(losses)

    exact = embeddings.astype("float64"), centers.astype("float64")
    losses, cosines, hits = head.loss_and_stats(labels, embeddings)
    np.testing.assert_allclose(ops.convert_to_numpy(losses), reference(*exact), rtol=1e-5, atol=1e-5)
    plain = np.einsum("bd,ckd->bck", references.unit(exact[0]), references.unit(exact[1].reshape(11, -1, 5))).max(
        axis=2
    )
    np.testing.assert_allclose(ops.convert_to_numpy(cosines), plain[np.arange(7), labels], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(hits), plain.argmax(axis=1) == labels)
    by_embeddings, by_centers = mean_loss_gradients(head, embeddings, centers, labels)
    right = references.slopes(lambda e: reference(e, exact[1]).mean(), exact[0])
    np.testing.assert_allclose(by_embeddings, right, rtol=1e-4, atol=1e-5)
    right = references.slopes(lambda c: reference(exact[0], c).mean(), exact[1])
    np.testing.assert_allclose(by_centers, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ignored_above", [1.0, 0.5])
def test_shards_give_the_same(ignored_above):
    """With two shards and a filter, all losses were NaN: ignored classes counted for the highest cosine."""
    embeddings, labels, centers = problem(20, 64, 16)
    centers[labels[0] + 1] = embeddings[0]
    engine = sparse.SparseDivergence(AlphaDivergence(1.25), ignored_above)
    rows = ops.convert_to_tensor(references.unit(embeddings))
    centers, labels = ops.convert_to_tensor(centers), ops.convert_to_tensor(labels, "int32")
    one, two = (
        engine(rows, centers, labels, chunking.Chunking(8, shards=shards), scale=16.0, margin=0.3) for shards in (1, 2)
    )
    for name in ("loss", "target"):
        np.testing.assert_allclose(*(ops.convert_to_numpy(r[name]) for r in (one, two)), rtol=1e-5, atol=1e-5)
    assert np.isfinite(ops.convert_to_numpy(one["loss"])).all()


def test_classes_without_probability_have_no_gradient():
    embeddings, labels, centers = problem(20, 500, 32)
    _, by_centers = check(embeddings, labels, centers, alpha=1.5)
    p, _ = references.divergence_probabilities(
        64 * references.unit(embeddings.astype("float64")) @ references.unit(centers.astype("float64")).T,
        labels,
        64 * 0.35,
        1.5,
    )
    is_listed = (p > 1e-6).any(axis=0)
    is_listed[labels] = True
    assert is_listed.sum() < 100
    assert (by_centers[~is_listed & ~(p > 0).any(axis=0)] == 0).all()


def test_an_embedding_far_from_all_other_classes_has_no_loss_and_no_gradient():
    centers = np.eye(6, dtype="float32")
    head = with_centers(QMargin(6, margin=0.35, scale=10.0), centers)
    embeddings, labels = 3 * centers[:2], np.array([0, 1])
    assert np.abs(ops.convert_to_numpy(head.loss(labels, embeddings))).max() < 1e-6
    for gradient in mean_loss_gradients(head, embeddings, centers, labels):
        assert np.abs(gradient).max() < 1e-6
    near = with_centers(QMargin(6, margin=0.35, scale=10.0, alpha=1.1), centers)  # the width is 1 and more is needed
    assert ops.convert_to_numpy(near.loss(labels, embeddings)).min() > 1e-5


def test_the_row_of_a_label_out_of_range_is_nan():
    embeddings, labels, centers = problem(9, 41, 24)
    head = with_centers(QMargin(41), centers)
    right = ops.convert_to_numpy(head.loss(labels, embeddings))
    labels[4] = 41
    found = ops.convert_to_numpy(head.loss(labels, embeddings))
    np.testing.assert_array_equal(np.isnan(found), np.arange(9) == 4)
    np.testing.assert_allclose(np.delete(found, 4), np.delete(right, 4), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_center_that_is_not_finite_makes_all_losses_nan(value):
    """It is not listed, so it would be ignored, and a broken training would not be noticed."""
    embeddings, labels, centers = problem(6, 40, 8)
    centers[3, 2] = value
    assert 3 not in labels
    head = with_centers(QMargin(40, chunk_size=16), centers)
    assert np.isnan(ops.convert_to_numpy(head.loss(labels, embeddings))).all()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch has no XLA here")
def test_a_model_compiled_by_xla_trains_the_same(monkeypatch):
    monkeypatch.setattr(pairs, "BLOCK", 16)
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(48, 8)).astype("float32"), generator.integers(0, 40, 48)
    losses = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        model = RecognitionModel(embedder, QMargin(40, scale=16.0, alpha=1.25, chunk_size=16))
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=jit_compile)
        losses.append(model.fit(inputs, labels, batch_size=20, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_a_copy_computes_the_same():
    embeddings, labels, centers = problem(9, 41, 24)
    head = with_centers(QMargin(41), centers)
    right = ops.convert_to_numpy(head.loss(labels, embeddings))
    copied = QMargin.from_config(head.get_config())
    copied._engine = copy.copy(head._engine)
    np.testing.assert_array_equal(ops.convert_to_numpy(with_centers(copied, centers).loss(labels, embeddings)), right)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.5, None])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(1, 2\]. Received: alpha="):
        QMargin(10, alpha=alpha)


@pytest.mark.parametrize(
    "choice",
    [{"label_smoothing": 0.1}, {"max_cache_bytes": 1}, {"matmul_dtype": "bfloat16"}, {"negatives": "hard"}],
    ids=str,
)
def test_arguments_without_a_meaning_are_refused(choice):
    with pytest.raises(ValueError, match=f"{next(iter(choice))} must be omitted with QMargin. Received: "):
        QMargin(10, **choice)
