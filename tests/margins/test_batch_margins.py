"""Margins that depend on more than the cosine, against their papers' formulas in float64."""

import keras
import numpy as np
import pytest
import references
from gradients import value_and_gradients
from keras import ops

from keras_arcface import MarginProduct
from keras_arcface.layers import stateless_random
from keras_arcface.margins import AdaptiveMargin
from keras_arcface.margins import Batch
from keras_arcface.margins import ElasticMargin
from keras_arcface.margins import MagnitudeMargin

ANGLES = np.linspace(0.02, np.pi - 0.02, 40)
COSINES = np.cos(ANGLES).astype("float32")
NORMS = np.linspace(4, 130, 40).astype("float32")


def batch_of(norms=NORMS, normals=None, state=None):
    normals = None if normals is None else ops.convert_to_tensor(normals)
    labels = ops.zeros(len(norms), dtype="int32")
    return Batch(labels, ops.convert_to_tensor(norms), normals, lambda v: v, lambda v: v, state or {})


def penalized(margin, batch):
    return ops.convert_to_numpy(margin.for_batch(batch)(ops.convert_to_tensor(COSINES)))


def test_adaface_equals_the_formula():
    state = {"norm_mean": ops.convert_to_tensor(60.0), "norm_std": ops.convert_to_tensor(30.0)}
    found = penalized(AdaptiveMargin(0.4, 0.333), batch_of(state=state))
    z = np.clip((np.clip(NORMS.astype("float64"), 1e-3, 100) - 60) / (30 + 1e-3) * 0.333, -1, 1)
    angles = np.maximum(np.arccos(COSINES.astype("float64")) - 0.4 * z, 0)
    expected = references.psi(angles) - (0.4 + 0.4 * z)
    print(f"AdaFace: {np.abs(found - expected).max():.1e}")
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert z.min() < 0 < z.max()


def test_adafaces_statistics_follow_the_norms_of_the_whole_batch():
    state = {"norm_mean": 20.0, "norm_std": 100.0}
    batch = batch_of(state=state)._replace(gather=lambda v: ops.concatenate([v, v + 10.0]))
    found = AdaptiveMargin(momentum=0.9).next_state(batch)
    clipped = np.clip(NORMS.astype("float64"), 1e-3, 100)
    whole = np.concatenate([clipped, clipped + 10])
    assert float(found["norm_mean"]) == pytest.approx(0.9 * 20 + 0.1 * whole.mean(), rel=1e-5)
    assert float(found["norm_std"]) == pytest.approx(0.9 * 100 + 0.1 * whole.std(ddof=1), rel=1e-5)
    one = AdaptiveMargin(momentum=0.9).next_state(batch_of(np.float32([7.0]), state=state))
    assert float(one["norm_std"]) == pytest.approx(90.0)


def test_magface_equals_the_formula():
    margin = MagnitudeMargin()
    norms = np.clip(NORMS.astype("float64"), 10, 110)
    margins = 0.45 + (0.8 - 0.45) * (norms - 10) / (110 - 10)
    expected = references.psi(np.arccos(COSINES.astype("float64")), m2=margins)
    np.testing.assert_allclose(penalized(margin, batch_of()), expected, atol=2e-6)
    regularizer = ops.convert_to_numpy(margin.regularizer(batch_of()))
    np.testing.assert_allclose(regularizer, 35 * (norms / 110**2 + 1 / norms), rtol=1e-5)


def test_magfaces_gradients_go_through_the_norm():
    def loss(norms):
        batch = batch_of()._replace(norms=norms)
        margin = MagnitudeMargin()
        return ops.sum(margin.for_batch(batch)(ops.convert_to_tensor(COSINES)) + margin.regularizer(batch))

    (gradient,) = value_and_gradients(loss, NORMS)[1]
    norms, angles = NORMS.astype("float64"), np.arccos(COSINES.astype("float64"))
    margins = 0.45 + 0.0035 * (np.clip(norms, 10, 110) - 10)
    k = np.floor((angles + margins) / np.pi)
    expected = -((-1) ** k) * np.sin(angles + margins) * 0.0035 + 35 * (1 / 110**2 - 1 / norms**2)
    np.testing.assert_allclose(gradient, np.where((norms > 10) & (norms < 110), expected, 0), atol=1e-5)


@pytest.mark.parametrize("angular", [True, False])
def test_elastic_margins_are_normal_in_training_and_their_mean_outside(angular):
    normals = np.random.default_rng(0).normal(size=40).astype("float32")
    margin = ElasticMargin(0.3, 0.1, angular=angular)
    for drawn, found in ((normals, penalized(margin, batch_of(normals=normals))), (0, penalized(margin, batch_of()))):
        name = "m2" if angular else "m3"
        expected = references.psi(np.arccos(COSINES.astype("float64")), **{name: 0.3 + 0.1 * drawn})
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_sorted_elastic_margins_are_largest_where_the_center_is_farthest():
    normals = np.random.default_rng(0).normal(size=40).astype("float32")
    cosines = np.random.default_rng(1).permutation(COSINES)
    margin = ElasticMargin(0.3, 0.1, angular=False, sort=True)
    found = ops.convert_to_numpy(margin.for_batch(batch_of(normals=normals))(ops.convert_to_tensor(cosines)))
    order = np.argsort(-cosines)
    np.testing.assert_allclose((cosines - found)[order], np.sort(0.3 + 0.1 * normals), atol=1e-6)


def head_of(margin, **options):
    head = MarginProduct(5, margin=margin, scale=16.0, **options)
    head.build((None, 8))
    head.centers.assign(np.random.default_rng(5).normal(size=(5, 8)))
    return head


EMBEDDINGS = (10 * np.random.default_rng(6).normal(size=(6, 8))).astype("float32")
LABELS = np.array([0, 1, 2, 3, 4, 0])


def test_random_margins_differ_from_step_to_step_and_come_again_with_the_step():
    heads = [head_of(ElasticMargin(0.5, 0.2)) for _ in range(2)]
    losses = [
        [ops.convert_to_numpy(h.loss_and_stats(LABELS, EMBEDDINGS, training=True)[0]) for _ in range(3)] for h in heads
    ]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert len({tuple(step) for step in losses[0]}) == 3
    heads[0].steps.assign(1)
    np.testing.assert_array_equal(heads[0].loss_and_stats(LABELS, EMBEDDINGS, training=True)[0], losses[0][1])
    other = head_of(ElasticMargin(0.5, 0.2), sample_seed=1)
    assert not np.array_equal(other.loss_and_stats(LABELS, EMBEDDINGS, training=True)[0], losses[0][0])
    still = [ops.convert_to_numpy(heads[0].loss(LABELS, EMBEDDINGS)) for _ in range(2)]
    np.testing.assert_array_equal(*still)


def test_stateless_normals_are_normal():
    draws = np.stack(
        [ops.convert_to_numpy(stateless_random.normal(500, 3, ops.convert_to_tensor(step))) for step in range(100)]
    )
    print(f"50,000 draws: mean {draws.mean():.4f}, standard deviation {draws.std():.4f}")
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1) < 0.02
    shares = [np.mean(draws < x) for x in (-1.959964, -0.6744898, 0.0, 0.6744898, 1.959964)]
    np.testing.assert_allclose(shares, [0.025, 0.25, 0.5, 0.75, 0.975], atol=0.01)
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.02


def test_a_head_keeps_adafaces_statistics():
    head = head_of(AdaptiveMargin(momentum=0.5))
    norms = np.linalg.norm(EMBEDDINGS, axis=1)
    head.loss(LABELS, EMBEDDINGS)
    assert float(ops.convert_to_numpy(head.statistics["norm_mean"])) == 20.0
    head.loss_and_stats(LABELS, EMBEDDINGS, training=True)
    found = {name: float(ops.convert_to_numpy(weight)) for name, weight in head.statistics.items()}
    assert found["norm_mean"] == pytest.approx(10 + norms.mean() / 2, rel=1e-5)
    assert found["norm_std"] == pytest.approx(50 + norms.std(ddof=1) / 2, rel=1e-5)
    assert {w.path.split("/")[-1] for w in head.non_trainable_weights} >= {"norm_mean", "norm_std"}


def test_norms_that_are_not_finite_do_not_count():
    clean, broken = (head_of(AdaptiveMargin(momentum=0.5)) for _ in range(2))
    clean.loss_and_stats(LABELS[1:], EMBEDDINGS[1:], training=True)
    labels = np.array(LABELS)
    labels[0] = -1
    broken.loss_and_stats(labels, EMBEDDINGS, training=True)
    broken.loss_and_stats(np.full_like(labels, -1), EMBEDDINGS, training=True)
    for ours, theirs in zip(broken.statistics.values(), clean.statistics.values(), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), rtol=1e-6)


@pytest.mark.parametrize("margin", [AdaptiveMargin(0.3), MagnitudeMargin(0.4), ElasticMargin(0.4, sort=True)])
def test_the_loss_is_that_of_the_logits_and_survives_saving(margin, tmp_path):
    head = head_of(margin)
    extra = margin.regularizer(batch_of(np.linalg.norm(EMBEDDINGS, axis=1)))
    logits = ops.convert_to_numpy(head(EMBEDDINGS, LABELS)).astype("float64")
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), LABELS]
    expected = expected if extra is None else expected + ops.convert_to_numpy(extra)
    np.testing.assert_allclose(ops.convert_to_numpy(head.loss(LABELS, EMBEDDINGS)), expected, rtol=1e-5)
    copy = MarginProduct.from_config(head.get_config())
    assert copy.margin.get_config() == margin.get_config()
    assert type(copy.margin) is type(margin)


@pytest.mark.parametrize("margin", [AdaptiveMargin(), MagnitudeMargin(), ElasticMargin()])
def test_gradients_are_finite_at_the_ends(margin):
    head = head_of(margin)
    centers = ops.convert_to_numpy(head.centers)
    ends = np.concatenate([centers[:2] * 3, -centers[2:4] * 50, np.zeros((2, 8))]).astype("float32")

    def loss(embeddings):
        return ops.mean(head.loss(LABELS, embeddings))

    value, (gradient,) = value_and_gradients(loss, ends)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not gradient[4:].any()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: AdaptiveMargin(margin=-1), "margin=-1"),
        (lambda: AdaptiveMargin(concentration=0), "concentration=0"),
        (lambda: AdaptiveMargin(momentum=1), "momentum=1"),
        (lambda: MagnitudeMargin(min_margin=0.9), "min_margin=0.9"),
        (lambda: MagnitudeMargin(min_norm=0), "min_norm=0"),
        (lambda: MagnitudeMargin(weight=-1), "weight=-1"),
        (lambda: ElasticMargin(mean=-0.1), "mean=-0.1"),
        (lambda: ElasticMargin(std=-1), "std=-1"),
    ],
)
def test_invalid_arguments_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("margin", [AdaptiveMargin(), MagnitudeMargin()])
def test_a_margin_of_norms_says_that_it_needs_them(margin):
    with pytest.raises(TypeError, match="norms"):
        margin(ops.convert_to_tensor(COSINES))
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(margin)).get_config()
