"""TripletLoss against a float64 loop over triplets, and against pytorch-metric-learning."""

import keras
import numpy as np
import pytest
import references
from gradients import value_and_gradients
from keras import ops

from keras_arcface.losses import TripletLoss

LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 4])  # class 3 has one image
DIM = 5
minings = pytest.mark.parametrize("mining", ["hard", "semihard"])
powers = pytest.mark.parametrize("squared", [True, False], ids=["squared", "plain"])


def embeddings_of(closeness=1.0):
    """Returns embeddings; the larger `closeness`, the closer each class. If negative, some point the opposite way."""
    generator = np.random.default_rng(4)
    signs = np.where(np.arange(12) % 2, np.sign(closeness), 1.0)[:, None]
    return (generator.normal(size=(12, DIM)) + abs(closeness) * signs * np.eye(5)[LABELS]).astype("float32")


def losses_of(embeddings, labels, margin, mining, squared, normalize=True):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) if normalize else embeddings
    losses = []
    for a, anchor in enumerate(unit):
        distances = [np.sum((anchor - other) ** 2) ** (1 if squared else 0.5) for other in unit]
        positives = [distances[j] for j in range(len(unit)) if labels[j] == labels[a] and j != a]
        negatives = [distances[j] for j in range(len(unit)) if labels[j] != labels[a]]
        triplets = [0.0]
        if positives and negatives and mining == "hard":
            triplets = [max(positives) - min(negatives) + margin]
        elif positives and negatives:
            farther = [[n for n in negatives if n > p] for p in positives]
            chosen = [min(candidates) if candidates else max(negatives) for candidates in farther]
            triplets = [p - n + margin for p, n in zip(positives, chosen, strict=True)]
        losses.append(np.mean([max(triplet, 0.0) for triplet in triplets]))
    return np.array(losses)


@minings
@powers
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
@pytest.mark.parametrize(("margin", "closeness"), [(0.2, -3.0), (1.0, 0.0), (0.2, 1.0), (1.0, 3.0)])
def test_agrees_with_the_formula(mining, squared, margin, closeness, normalize):
    embeddings = embeddings_of(closeness)
    if not normalize:
        embeddings *= 7  # distances up to 70, and their squares
        margin *= 10 ** (1 + squared)
    loss = TripletLoss(margin, mining, squared, normalize)
    found = ops.convert_to_numpy(loss.call(LABELS, embeddings))
    exact = embeddings.astype("float64")
    expected = losses_of(exact, LABELS, margin, mining, squared, normalize)
    assert expected.max() > 0
    slopes = references.slopes(lambda e: losses_of(e, LABELS, margin, mining, squared, normalize).mean(), exact)
    value, (gradient,) = value_and_gradients(lambda e: ops.mean(loss.call(LABELS, e)), embeddings)
    errors = np.abs(found - expected).max() / expected.max(), np.abs(gradient - slopes).max() / np.abs(slopes).max()
    print(f"loss {errors[0]:.1e}, gradient {errors[1]:.1e}")
    assert max(errors) < 1e-5
    assert value == pytest.approx(expected.mean(), rel=1e-5)
    assert found[8] == 0


@pytest.mark.parametrize("closeness", [-3.0, 1.0])
def test_examples_have_every_kind_of_negative(closeness):
    unit = embeddings_of(closeness).astype("float64")
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    same = LABELS[:, None] == LABELS
    without_farther, semihard = 0, 0
    for row, is_same in zip(2 - 2 * unit @ unit.T, same, strict=True):
        for positive in row[is_same & (row > 1e-9)]:
            farther = row[~is_same & (row > positive)]
            without_farther += len(farther) == 0
            semihard += len(farther) > 0 and farther.min() < positive + 0.2 and row[~is_same].min() < positive
    assert semihard > 0
    assert without_farther > 0 or closeness > 0


@powers
def test_hard_triplets_agree_with_pytorch_metric_learning(squared):
    torch = pytest.importorskip("torch")
    pml = pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import distances
    from pytorch_metric_learning import losses
    from pytorch_metric_learning import miners
    from pytorch_metric_learning import reducers

    embeddings = embeddings_of()
    distance = distances.LpDistance(power=2 if squared else 1)
    theirs = losses.TripletMarginLoss(0.3, distance=distance, reducer=reducers.DoNothingReducer())
    tensor, labels = torch.tensor(embeddings, requires_grad=True), torch.tensor(LABELS)
    anchors = miners.BatchHardMiner(distance=distance)(tensor, labels)
    by_triplet = theirs(tensor, labels, anchors)["loss"]["losses"]
    (by_triplet.sum() / len(LABELS)).backward()
    loss = TripletLoss(0.3, squared=squared)
    value, (gradient,) = value_and_gradients(lambda e: ops.mean(loss.call(LABELS, e)), embeddings)
    expected = by_triplet.detach().numpy().sum() / len(LABELS)
    errors = abs(value / expected - 1), np.abs(gradient - tensor.grad.numpy()).max() / np.abs(gradient).max()
    print(f"pytorch-metric-learning {pml.__version__}: loss {errors[0]:.1e}, gradient {errors[1]:.1e}")
    assert max(errors) < 1e-5
    assert len(by_triplet) == 11


@pytest.mark.slow
@minings
@powers
@pytest.mark.parametrize(
    "labels",
    [np.zeros(6, int), np.arange(6), np.array([0, 0, 1, 1, 2, 2])],
    ids=["one class", "one image each", "pairs"],
)
def test_degenerate_batches_are_finite(mining, squared, labels):
    vectors = np.float32([[1, 0], [1, 0], [-1, 0], [0, 0], [0, 0], [1e-3, 1e-3]])
    loss = TripletLoss(0.2, mining, squared)
    for embeddings in (vectors, np.zeros((6, 2), "float32"), np.ones((6, 2), "float32"), vectors[[0] * 6]):
        value, (gradient,) = value_and_gradients(lambda e: ops.mean(loss.call(labels, e)), embeddings)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert not gradient[~embeddings.any(axis=1)].any()
        if len(set(labels)) != 3:
            assert value == 0
            assert not gradient.any()


@minings
def test_batch_of_one_image(mining):
    value, (gradient,) = value_and_gradients(
        lambda e: ops.mean(TripletLoss(mining=mining).call(np.array([3]), e)), np.ones((1, 4), "float32")
    )
    assert value == 0
    assert not gradient.any()


def test_works_as_a_keras_loss(tmp_path):
    embeddings = embeddings_of()
    loss = TripletLoss(0.3, "semihard", squared=False)
    assert float(loss(LABELS[:, None], embeddings)) == pytest.approx(
        losses_of(embeddings, LABELS, 0.3, "semihard", False).mean(), rel=1e-5
    )
    model = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM)])
    model.compile("sgd", loss=loss)
    model.fit(embeddings, LABELS, batch_size=12, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.loss.margin, loaded.loss.mining, loaded.loss.squared) == (0.3, "semihard", False)
    assert loaded.evaluate(embeddings, LABELS, verbose=0) == model.evaluate(embeddings, LABELS, verbose=0)


def test_float16_embeddings_are_compared_in_float32():
    embeddings = embeddings_of()
    found = TripletLoss(dtype="float32").call(LABELS, ops.convert_to_tensor(embeddings.astype("float16")))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(found, losses_of(embeddings, LABELS, 0.2, "hard", True), atol=5e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"margin": -0.1}, "margin=-0.1"),
        ({"margin": 2.1, "squared": False}, "margin=2.1"),
        ({"margin": float("inf"), "normalize": False}, "margin=inf"),
        ({"mining": "all"}, "mining='all'"),
    ],
)
def test_arguments_out_of_range_raise_an_error(arguments, named):
    with pytest.raises(ValueError, match=f"Received: {named}"):
        TripletLoss(**arguments)
