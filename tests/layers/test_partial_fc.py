"""Partial FC: what a step draws, and that it trains that and nothing else."""

import collections
import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import references
from gradients import value_and_gradients
from keras import ops
from scipy import stats

from keras_arcface import AdaFace
from keras_arcface import ArcFace
from keras_arcface import CurricularFace
from keras_arcface import ElasticFace
from keras_arcface import MagFace
from keras_arcface import RecognitionModel
from keras_arcface import UniFace
from keras_arcface.layers import MVSoftmax
from keras_arcface.layers import QMargin
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.partial_fc import sampler
from keras_arcface.training import CoupledSGD
from keras_arcface.training import GradientAccumulationOptimizer

if keras.backend.backend() == "torch":
    pytest.skip("sampling needs TensorFlow or JAX", allow_module_level=True)

CLASSES, DIM, BATCH = 40, 6, 8
GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(64, DIM)).astype("float32")
LABELS = GENERATOR.integers(0, CLASSES, 64).astype("int32")
# Heads that can look at some of the classes only, each with something else that the loss knows.
SAMPLING = {
    "ArcFace": ArcFace,
    "AdaFace": functools.partial(AdaFace, momentum=0.5),
    "MagFace": functools.partial(MagFace, min_norm=0.1, max_norm=5.0, weight=0.1),
    "ElasticFace": functools.partial(ElasticFace, std=0.2, sort=True),
    "CurricularFace": functools.partial(CurricularFace, momentum=0.5),
    "MV-softmax": MVSoftmax,
    "UniFace": UniFace,
    "Q-Margin": QMargin,
}


@functools.cache
def compiled_draw(num_classes, size, seed, groups):
    def draw(labels, step):
        return sampler.draw(labels, num_classes, size, seed, step, groups)

    return backends.current().jit(draw, "float32")


def draw(labels, num_classes, size, seed=0, step=0, groups=1):
    labels, step = (ops.convert_to_tensor(value, "int32") for value in (labels, step))
    return ops.convert_to_numpy(compiled_draw(num_classes, size, seed, groups)(labels, step))


def make_model(optimizer=None, inputs=INPUTS, of=ArcFace, **choices):
    """One dense layer and a head, always the same at the start."""
    keras.utils.set_random_seed(0)
    embedder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM, name="body")])
    head = of(CLASSES, scale=16.0, name="head", **{"sample_rate": 0.3, **choices})
    model = RecognitionModel(embedder, head)
    model.compile(optimizer or CoupledSGD(0.1, weight_decay=0.01))
    model.build((None, DIM))
    head.centers.assign(np.random.default_rng(1).normal(size=head.centers.shape))
    return model


def train(model, epochs=1, **options):
    return model.fit(INPUTS, LABELS, batch_size=BATCH, shuffle=False, epochs=epochs, verbose=0, **options).history


@pytest.mark.parametrize(
    ("num_classes", "rate"),
    [(2, 0.5), (3, 1.0), (100, 0.01), (100, 0.5), (99_991, 0.01), (99_991, 1.0), (10_000_000, 0.01)],
)
def test_a_sample_has_the_classes_of_the_batch_and_no_class_twice(num_classes, rate):
    size = min(max(5, int(rate * num_classes)), num_classes, 100_000)
    generator = np.random.default_rng(0)
    for step in range(5):
        labels = generator.integers(0, num_classes, min(size, 12))
        labels[1:3] = labels[0]
        drawn = draw(labels, num_classes, size, step=step)
        assert drawn.shape == (size,)
        assert (np.diff(drawn) > 0).all()
        assert drawn[0] >= 0
        assert drawn[-1] < num_classes
        assert np.isin(labels, drawn).all()


@pytest.mark.parametrize("labels", [[7, 11, 7], [3, 999, 500, 499, 250, 251], [0, 1, 2, 3, 4, 5]])
def test_groups_draw_equally_many_different_classes(labels):
    drawn = draw(labels, 1000, 80, seed=1, step=5, groups=4)
    assert (np.diff(drawn) > 0).all()
    assert np.isin(labels, drawn).all()
    np.testing.assert_array_equal(np.bincount(drawn // 250, minlength=4), 20)
    of_groups = [set(part % 250) for part in np.split(drawn, 4)]
    assert all(len(one & other) < 8 for one, other in itertools.combinations(of_groups, 2))


@pytest.mark.slow
def test_other_classes_and_pairs_are_drawn_with_equal_probability():
    num_classes, size, steps = 23, 8, 4000
    count = np.zeros((num_classes, num_classes))
    for step in range(steps):
        drawn = draw([7, 11, 7], num_classes, size, seed=3, step=step)
        count[np.ix_(drawn, drawn)] += 1
    own = np.array([7, 11])
    assert (count[own, own] == steps).all()
    others = np.setdiff1d(np.arange(num_classes), own)
    count = count[np.ix_(others, others)]
    once, pairs = np.diag(count), count[np.triu_indices(len(others), 1)]
    assert once.sum() == steps * (size - 2)
    # Counts of draws without replacement spread less than a chi square says, and never systematically more.
    for observed in (once, pairs):
        share = observed.sum() / len(observed) / steps
        statistic = np.sum((observed - observed.mean()) ** 2) / (observed.mean() * (1 - share))
        print(f"chi square {statistic:.1f} of {len(observed) - 1}")
        assert 1e-3 < stats.chi2.sf(statistic, len(observed) - 1) < 1 - 1e-3


def test_a_draw_is_a_function_of_seed_and_step():
    first = draw([1], 1000, 50, seed=5, step=70_000)
    np.testing.assert_array_equal(first, draw([1], 1000, 50, seed=5, step=70_000))
    for seed, step in ((5, 70_001), (6, 70_000), (5, 70_000 + 65_536)):
        common = np.intersect1d(first, draw([1], 1000, 50, seed=seed, step=step))
        assert len(common) < 12


def test_centers_that_are_not_drawn_stay_bit_for_bit():
    model = make_model()
    head = model.head
    train(model)  # so that there is momentum
    for step in range(4):
        before = [np.array(v) for v in (head.centers, *head.partial_fc.slots)]
        batch = slice(BATCH * step, BATCH * (step + 1))
        model.train_on_batch(INPUTS[batch], LABELS[batch])
        if keras.backend.backend() == "jax":
            model.jax_state_sync()
        drawn = np.array(head.partial_fc.sampled_ids)
        assert np.isin(LABELS[batch], drawn).all()
        others = np.setdiff1d(np.arange(CLASSES), drawn)
        for old, new in zip(before, (head.centers, *head.partial_fc.slots), strict=True):
            new = np.array(new)
            np.testing.assert_array_equal(old[others], new[others])
            assert (old[drawn] != new[drawn]).any(axis=1).all()


def test_a_step_equals_an_exact_step_over_the_classes_drawn():
    """Of a head that has no other classes, with their momentum."""
    model = make_model()
    train(model)
    head = model.head
    weights = [np.array(v) for v in model.embedder.trainable_weights]
    centers, slot = np.array(head.centers), np.array(head.partial_fc.slots[0])
    momenta = [np.array(v) for v in model.optimizer.variables if "body" in v.name]
    model.train_on_batch(INPUTS[:BATCH], LABELS[:BATCH])
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    drawn = np.array(head.partial_fc.sampled_ids)

    embedder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM, name="body")])
    small = RecognitionModel(embedder, ArcFace(len(drawn), scale=16.0, name="head"))
    small.compile(CoupledSGD(0.1, weight_decay=0.01))
    small.build((None, DIM))
    small.optimizer.build(small.trainable_variables)
    for variable, value in zip(embedder.trainable_weights, weights, strict=True):
        variable.assign(value)
    small.head.centers.assign(centers[drawn])
    for variable, value in zip([v for v in small.optimizer.variables if "body" in v.name], momenta, strict=True):
        variable.assign(value)
    (momentum,) = (v for v in small.optimizer.variables if "head_centers" in v.name)
    momentum.assign(slot[drawn])
    small.train_on_batch(INPUTS[:BATCH], np.searchsorted(drawn, LABELS[:BATCH]))
    if keras.backend.backend() == "jax":
        small.jax_state_sync()
    np.testing.assert_allclose(np.array(head.centers)[drawn], np.array(small.head.centers), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(head.partial_fc.slots[0])[drawn], np.array(momentum), rtol=1e-5, atol=1e-6)
    for one, other in zip(model.embedder.trainable_weights, embedder.trainable_weights, strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_mean_over_draws_approaches_the_expectation():
    """On a small case, where all can be gone through. It is below the exact loss, as fewer classes are summed."""
    labels, classes, size, steps = np.array([1, 4, 1]), 7, 4, 3000
    generator = np.random.default_rng(0)
    embeddings, centers = (generator.normal(size=(n, 5)).astype("float32") for n in (3, classes))
    exact = embeddings.astype("float64"), centers.astype("float64")
    head = ArcFace(classes, scale=8.0, sample_rate=0.5)
    head.build((None, 5))
    assert head.partial_fc.sample.shape[0] == size

    def mean_loss(embeddings):
        with keras.StatelessScope():
            return ops.mean(head.loss_and_stats(labels, embeddings, training=True)[0])

    drawn = collections.Counter(tuple(draw(labels, classes, size, seed=2, step=step)) for step in range(steps))
    choices = [tuple(sorted({1, 4, *others})) for others in itertools.combinations([0, 2, 3, 5, 6], size - 2)]
    assert set(drawn) == set(choices)
    found = []
    for choice in choices:
        chosen, places = np.array(choice), np.searchsorted(choice, labels)
        head.partial_fc.sampled_ids.assign(chosen)
        head.partial_fc.sample.assign(centers[chosen])
        loss, (gradient,) = value_and_gradients(mean_loss, embeddings)
        part = exact[0], exact[1][chosen], places
        np.testing.assert_allclose(loss, references.losses(*part, 8.0, m2=0.5).mean(), rtol=1e-5)
        wanted = references.mean_loss_gradients(*part, 8.0, m2=0.5)[0]
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
        found.append(np.append(gradient, loss))
    found, times = np.array(found), np.array([drawn[choice] for choice in choices])[:, None]
    mean, expected = np.sum(times * found, axis=0) / steps, found.mean(axis=0)
    deviations = np.abs(mean - expected) / (found.std(axis=0) / np.sqrt(steps))
    loss = references.losses(*exact, labels, 8.0, m2=0.5).mean()
    gradient = references.mean_loss_gradients(*exact, labels, 8.0, m2=0.5)[0].ravel()
    cosine = expected[:-1] @ gradient / np.linalg.norm(expected[:-1]) / np.linalg.norm(gradient)
    print(f"loss {mean[-1]:.4f}, expected {expected[-1]:.4f}, exact {loss:.4f}; ", end="")
    print(f"gradient at most {deviations.max():.1f} standard errors away, cosine to the exact one {cosine:.4f}")
    assert deviations.max() < 4
    assert expected[-1] < loss


# Those that stand for the others: with a margin, with statistics, with a weight of its own.
@pytest.mark.parametrize(
    "of",
    [
        of if of in ("ArcFace", "AdaFace", "UniFace", "Q-Margin") else pytest.param(of, marks=pytest.mark.slow)
        for of in SAMPLING
    ],
)
def test_drawing_all_classes_equals_the_exact_head(of):
    sampled, exact = make_model(sample_rate=0.999, of=SAMPLING[of]), make_model(sample_rate=1.0, of=SAMPLING[of])
    assert sampled.head.partial_fc.sample.shape[0] == CLASSES
    assert exact.head.centers.trainable
    if of == "UniFace":  # its threshold starts by the share that is drawn
        exact.head.bias.assign(np.array(sampled.head.bias))
    losses = train(sampled, epochs=2)["loss"], train(exact, epochs=2)["loss"]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(np.array(sampled.head.centers), np.array(exact.head.centers), rtol=1e-4, atol=1e-5)


def test_evaluation_uses_all_classes():
    model = make_model()
    exact = make_model(sample_rate=1.0)
    scores = [m.evaluate(INPUTS, LABELS, verbose=0, return_dict=True)["loss"] for m in (model, exact)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_adam_has_two_slots():
    model = make_model(keras.optimizers.Adam(0.01))
    train(model)
    assert all(np.abs(np.array(slot)).max() > 0 for slot in model.head.partial_fc.slots)


@pytest.mark.slow
def test_it_learns_and_continues_after_loading(tmp_path):
    undisturbed, model = make_model(), make_model()
    losses = train(undisturbed, epochs=40)["loss"]
    assert losses[-1] < 0.7 * losses[0]
    train(model, epochs=20)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    train(loaded, epochs=20)
    for one, other in zip(undisturbed.variables, loaded.variables, strict=True):
        if "seed" not in one.path and "tracker" not in one.path:
            np.testing.assert_array_equal(np.array(one), np.array(other), err_msg=one.path)


def test_a_batch_larger_than_the_sample_is_refused():
    with pytest.raises(ValueError, match=r"sample_rate of at least 0\.2.*Received: a batch of 8"):
        train(make_model(sample_rate=0.1))


def test_accumulation_is_refused():
    with pytest.raises(ValueError, match="gradient accumulation"):
        train(make_model(GradientAccumulationOptimizer(CoupledSGD(0.1), accumulation_steps=2)))
    with pytest.raises(ValueError, match="gradient accumulation"):
        train(make_model(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)))


def test_another_optimizer_needs_as_many_slots():
    model = make_model()
    train(model)
    model.compile(keras.optimizers.Adam(0.01))
    with pytest.raises(ValueError, match=r"have 1 optimizer slot.*Received: Adam with 2 slot"):
        train(model)


def test_an_optimizer_with_slots_of_other_shapes_is_named():
    with pytest.raises(ValueError, match=r"slots have the shape of the weight.*Received: Adafactor"):
        train(make_model(keras.optimizers.Adafactor(0.01)))


def test_another_optimizer_starts_with_slots_of_zeros():
    model = make_model()
    train(model)
    model.compile(CoupledSGD(0.1, weight_decay=0.01))
    model.make_train_function()
    assert all(np.abs(np.array(slot)).max() == 0 for slot in model.head.partial_fc.slots)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: keras.optimizers.SGD(0.1), 0),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True), 1),
        (lambda: keras.optimizers.Adam(0.1), 2),
        (lambda: keras.optimizers.Adam(0.1, amsgrad=True), 3),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)), 2),
        (lambda: GradientAccumulationOptimizer(CoupledSGD(0.1)), 1),
        (
            lambda: keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(keras.optimizers.Adam(), {".*head/.*": CoupledSGD(0.1)})
            ),
            1,
        ),
    ],
    ids=["SGD", "momentum, EMA", "Adam", "AMSGrad", "loss scale", "whole batch", "multi"],
)
def test_the_slots_are_learned_from_the_optimizer(make, count):
    model = make_model(make())
    model.make_train_function()
    assert len(model.head.partial_fc.slots) == count
    shape = tuple(model.head.centers.shape)
    assert all(tuple(slot.shape) == shape for slot in model.head.partial_fc.slots)


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"sample_rate": 1.5}, "sample_rate"),
        ({"sample_seed": 0.5}, "sample_seed"),
        ({"centers_regularizer": "l2"}, "centers_regularizer"),
        ({"sample_groups": 0}, "sample_groups"),
        ({"sample_groups": 2, "sample_rate": 1.0}, "sample_groups"),
        ({"sample_groups": 3}, "num_classes"),
    ],
)
def test_arguments_out_of_range_are_named(choices, named):
    with pytest.raises(ValueError, match=f"{named}.*Received: {named}="):
        ArcFace(CLASSES, **{"sample_rate": 0.3, **choices})


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_two_replicas_draw_and_train_as_one():
    script = Path(__file__).with_name("sampled_replicas.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["drawn alike"]
    assert report["largest difference"] < 1e-5
