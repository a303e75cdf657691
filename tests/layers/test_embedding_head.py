"""The head for losses on embeddings, with triplets and with Keras' circle loss."""

import keras
import numpy as np
import pytest
import references
from gradients import value_and_gradients
from keras import ops

from keras_arcface import RecognitionModel
from keras_arcface.layers import EmbeddingHead
from keras_arcface.losses import TripletLoss

LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 4])  # person 3 has one image
DIM = 6
LOSSES = {
    "hard": lambda: TripletLoss(0.3),
    "semihard": lambda: TripletLoss(0.3, "semihard"),
    "circle": lambda: keras.losses.Circle(gamma=16, margin=0.3),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(4)
    return (generator.normal(size=(12, DIM)) + 2 * np.eye(DIM)[LABELS]).astype("float32")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@every_loss
def test_the_loss_is_that_of_normalized_embeddings(name, embeddings):
    losses = ops.convert_to_numpy(EmbeddingHead(LOSSES[name]()).loss(LABELS, 7 * embeddings))
    expected = ops.convert_to_numpy(LOSSES[name]().call(LABELS, unit(embeddings)))
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert losses.shape == (12,)
    assert losses.any()


def circle_losses(embeddings, labels, gamma, margin):
    """The paper's equations 4 to 6 and 8, with cosines."""
    losses = []
    for a, row in enumerate(unit(embeddings) @ unit(embeddings).T):
        positives = [s for j, s in enumerate(row) if labels[j] == labels[a] and j != a]
        negatives = [s for j, s in enumerate(row) if labels[j] != labels[a]]
        p = [-gamma * max(1 + margin - s, 0) * (s - (1 - margin)) for s in positives]
        n = [gamma * max(s + margin, 0) * (s - margin) for s in negatives]
        total = np.logaddexp.reduce(p) + np.logaddexp.reduce(n) if p and n else -np.inf
        losses.append(np.logaddexp(0, total))
    return np.array(losses)


def test_circle_equals_the_formula(embeddings):
    head, exact = EmbeddingHead(keras.losses.Circle(gamma=16, margin=0.3)), embeddings.astype("float64")
    losses, expected = ops.convert_to_numpy(head.loss(LABELS, embeddings)), circle_losses(exact, LABELS, 16, 0.3)
    wanted = references.slopes(lambda e: circle_losses(e, LABELS, 16, 0.3).mean(), exact)
    _, (gradient,) = value_and_gradients(lambda e: ops.mean(head.loss(LABELS, e)), embeddings)
    errors = np.abs(losses - expected).max() / expected.max(), np.abs(gradient - wanted).max() / np.abs(wanted).max()
    print(f"loss {errors[0]:.1e}, gradient {errors[1]:.1e}")
    assert max(errors) < 1e-5


def test_circle_equals_pytorch_metric_learning(embeddings):
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import losses
    from pytorch_metric_learning import reducers

    theirs = losses.CircleLoss(m=0.3, gamma=16, reducer=reducers.MeanReducer())
    tensor = torch.tensor(embeddings, requires_grad=True)
    value = theirs(tensor, torch.tensor(LABELS))
    value.backward()
    head = EmbeddingHead(keras.losses.Circle(gamma=16, margin=0.3))
    ours, (gradient,) = value_and_gradients(lambda e: ops.mean(head.loss(LABELS, e)), embeddings)
    other = tensor.grad.numpy()
    alike = (gradient * other).sum() / np.linalg.norm(gradient) / np.linalg.norm(other)
    print(f"loss {abs(ours / value.item() - 1):.1e}; gradients (theirs hold the weights fixed): cosine {alike:.4f}")
    assert ours == pytest.approx(value.item(), rel=1e-5)


@every_loss
def test_statistics_compare_with_the_other_images(name, embeddings):
    _, cosines, hits = map(
        ops.convert_to_numpy, EmbeddingHead(LOSSES[name]()).loss_and_stats(LABELS, embeddings, training=True)
    )
    products = unit(embeddings) @ unit(embeddings).T
    for a, row in enumerate(products):
        others = [j for j in range(12) if j != a]
        assert cosines[a] == pytest.approx(min([row[j] for j in others if LABELS[j] == LABELS[a]], default=1), abs=1e-6)
        assert hits[a] == (LABELS[max(others, key=row.__getitem__)] == LABELS[a])
    assert 0 < hits.sum() < 12


@pytest.mark.slow
@every_loss
@pytest.mark.parametrize("labels", [np.zeros(6, int), np.arange(6), np.array([0, 0, 1, 1, 2, 2])], ids=str)
def test_degenerate_batches_are_finite(name, labels):
    vectors = np.float32([[1, 0], [1, 0], [-1, 0], [0, 0], [0, 0], [1e-3, 1e-3]])
    head = EmbeddingHead(LOSSES[name]())
    for embeddings in (vectors, np.zeros((6, 2), "float32")):
        value, (gradient,) = value_and_gradients(lambda e: ops.mean(head.loss(labels, e)), embeddings)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        if len(set(labels)) != 3:
            assert value == 0
            assert not gradient.any()
        assert np.isfinite(head.loss_and_stats(labels, embeddings)[1]).all()
    assert not np.array(head.loss_and_stats(np.array([0]), np.ones((1, 2), "float32"))[2])


@every_loss
def test_a_negative_label_makes_the_loss_nan(name, embeddings):
    head = EmbeddingHead(LOSSES[name]())
    losses = ops.convert_to_numpy(head.loss(np.where(np.arange(12) == 2, -1, LABELS), embeddings))
    assert np.isnan(losses[2])
    with pytest.raises(ValueError, match=r"integer labels in \[0, \.\.\.\)"):
        head.loss(LABELS.astype("float32"), embeddings)


@pytest.mark.slow
@every_loss
def test_it_trains_from_batches_of_p_people_with_k_images(name, face_folder, tmp_path):
    data = pytest.importorskip("keras_arcface.data")
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "data")
    dataset = data.load_dataset(tmp_path / "data", batch_size=6, training=True, images_per_class=3)
    layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(8)]
    model = RecognitionModel(keras.Sequential(layers), EmbeddingHead(LOSSES[name]()))
    model.compile(keras.optimizers.SGD(1e-3))
    history = model.fit(dataset, steps_per_epoch=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert 0 < history["accuracy"][0] <= 1
    assert 0 < history["target_angle"][0] < np.pi


def test_the_mean_counts_every_example(embeddings):
    """Keras' circle loss marks what has no positive or no negative, and a mean by that mark would leave it out."""
    head = EmbeddingHead(keras.losses.Circle(gamma=16, margin=0.3))
    inputs = keras.Input((DIM,))
    model = RecognitionModel(keras.Model(inputs, keras.layers.Identity()(inputs)), head)
    model.compile("sgd")
    found = model.evaluate(embeddings, LABELS, batch_size=12, verbose=0, return_dict=True)["loss"]
    losses = ops.convert_to_numpy(head.loss(LABELS, embeddings))
    assert losses[8] == 0
    assert found == pytest.approx(losses.mean(), rel=1e-5)


def test_an_object_that_is_not_a_loss_is_refused():
    with pytest.raises(ValueError, match="Received: loss='circle'"):
        EmbeddingHead("circle")
