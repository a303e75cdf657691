import keras
import numpy as np
import pytest
import references
from gradients import mean_loss_gradients
from gradients import value_and_gradients
from gradients import with_centers
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import CosFace
from keras_arcface import MarginProduct
from keras_arcface import SphereFace
from keras_arcface.margins import CombinedMargin

BATCH, DIM, CLASSES = 17, 24, 41
HEADS = {
    "softmax": (lambda: MarginProduct(CLASSES), {}),
    "ArcFace": (lambda: ArcFace(CLASSES), {"m2": 0.5}),
    "CosFace": (lambda: CosFace(CLASSES), {"m3": 0.35}),
    "SphereFace": (lambda: SphereFace(CLASSES), {"m1": 1.35}),
    "combined": (
        lambda: MarginProduct(CLASSES, margin=CombinedMargin(0.9, 0.4, 0.15)),
        {"m1": 0.9, "m2": 0.4, "m3": 0.15},
    ),
}
all_heads = pytest.mark.parametrize(("make", "margin"), HEADS.values(), ids=HEADS.keys())
any_precision = pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])


@pytest.fixture
def batch():
    generator = np.random.default_rng(7)
    labels = generator.integers(0, CLASSES, BATCH)
    centers = generator.normal(size=(CLASSES, DIM)).astype(np.float32)
    # Between random and close to their center, so that every part of psi is met.
    closeness = np.linspace(-3, 3, BATCH)[:, None]
    embeddings = (closeness * centers[labels] + 2 * generator.normal(size=(BATCH, DIM))).astype(np.float32)
    return embeddings, labels, centers


@pytest.fixture
def policy_for_test(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    yield policy
    keras.config.set_dtype_policy(before)


@all_heads
def test_logits_equal_the_formula(make, margin, batch):
    embeddings, labels, centers = batch
    head = with_centers(make(), centers)
    expected = references.logits(embeddings.astype(np.float64), centers.astype(np.float64), labels, 64, **margin)
    for logits in (head(embeddings, labels), head([embeddings, labels])):
        logits = ops.convert_to_numpy(logits)
        print(f"logits: largest error {np.abs(logits - expected).max() / 64:.1e} of the scale")
        np.testing.assert_allclose(logits, expected, atol=64 * 2e-6)


@all_heads
def test_without_labels_the_head_gives_plain_scaled_cosines(make, margin, batch):
    embeddings, labels, centers = batch
    expected = references.logits(embeddings, centers, labels, 64)
    np.testing.assert_allclose(
        ops.convert_to_numpy(with_centers(make(), centers)(embeddings)), expected, atol=64 * 1e-6
    )


@all_heads
def test_loss_and_gradients_equal_the_formula(make, margin, batch):
    embeddings, labels, centers = batch
    exact = embeddings.astype(np.float64), centers.astype(np.float64)
    head = with_centers(make(), centers)
    losses = ops.convert_to_numpy(head.loss(labels, embeddings))
    np.testing.assert_allclose(losses, references.losses(*exact, labels, 64, **margin), rtol=2e-5, atol=1e-4)
    expected = references.mean_loss_gradients(*exact, labels, 64, **margin)
    for gradient, wanted in zip(mean_loss_gradients(head, embeddings, centers, labels), expected, strict=True):
        print(f"gradient: largest error {np.abs(gradient - wanted).max() / np.abs(wanted).max():.1e} of the largest")
        np.testing.assert_allclose(gradient, wanted, atol=2e-5 * np.abs(wanted).max())


def test_stats_are_of_plain_cosines(batch):
    embeddings, labels, centers = batch
    _, target_cosines, hits = with_centers(ArcFace(CLASSES), centers).loss_and_stats(labels, embeddings)
    cosines = references.logits(embeddings, centers, labels, scale=1.0)
    np.testing.assert_allclose(ops.convert_to_numpy(target_cosines), cosines[np.arange(BATCH), labels], atol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(hits), cosines.argmax(axis=1) == labels)
    assert 0 < ops.convert_to_numpy(hits).sum() < BATCH


def test_strength_fades_the_penalty_in(batch):
    embeddings, labels, centers = batch
    head = with_centers(ArcFace(CLASSES), centers)
    head.strength.assign(0.0)
    plain = ops.convert_to_numpy(head(embeddings))
    np.testing.assert_array_equal(ops.convert_to_numpy(head(embeddings, labels)), plain)
    head.strength.assign(0.25)
    rows = np.arange(BATCH)
    cosines = plain[rows, labels] / 64
    expected = cosines - 0.25 * (cosines - references.psi(np.arccos(cosines), m2=0.5))
    weakened = ops.convert_to_numpy(head(embeddings, labels))[rows, labels] / 64
    np.testing.assert_allclose(weakened, expected, atol=1e-5)


def test_a_warm_up_raises_margin_and_scale(batch):
    embeddings, labels, centers = batch
    head = with_centers(ArcFace(CLASSES, scale=32.0, warmup_steps=4, initial_scale=8.0), centers)
    for step in range(6):
        ramp = min(step / 4, 1.0)
        losses, _, _ = head.loss_and_stats(labels, embeddings, training=True)
        fixed = with_centers(ArcFace(CLASSES, scale=8.0 + 24.0 * ramp), centers)
        fixed.strength.assign(ramp)
        np.testing.assert_allclose(losses, fixed.loss(labels, embeddings), rtol=1e-6)
        # What is not a batch of training does not count, and is judged as the last one was.
        np.testing.assert_allclose(head(embeddings, labels), fixed(embeddings, labels), rtol=1e-6)
        np.testing.assert_allclose(head(embeddings), fixed(embeddings), rtol=1e-6)
        assert int(head.steps.numpy()) == step + 1


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_equals_that_of_keras(smoothing, batch):
    embeddings, labels, centers = batch
    head = with_centers(ArcFace(CLASSES, scale=16.0, label_smoothing=smoothing), centers)
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
    np.testing.assert_allclose(
        head.loss(labels, embeddings), expected(one_hot, head(embeddings, labels)), rtol=1e-5, atol=1e-5
    )


def test_a_functional_model_counts_batches_too(batch):
    embeddings, labels, _ = batch
    inputs = keras.Input((DIM,)), keras.Input((), dtype="int32")
    head = ArcFace(CLASSES, warmup_steps=10)
    model = keras.Model(inputs, head(*inputs))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit((embeddings, labels), labels, batch_size=BATCH, epochs=3, verbose=0)
    assert (int(head.steps.numpy()), float(head.strength.numpy())) == (3, pytest.approx(0.2))


@any_precision
@pytest.mark.usefixtures("policy_for_test")
def test_gradients_are_finite_where_the_formula_has_none():
    centers = np.eye(CLASSES, DIM, dtype=np.float32) + 0.5
    labels = np.array([3, 5])
    compute_dtype = keras.config.dtype_policy().compute_dtype
    head = with_centers(ArcFace(CLASSES), centers)

    def loss(embeddings):
        return ops.sum(head.loss(labels, ops.cast(embeddings, compute_dtype)))

    for length in (2.0, -2.0, 0.0):  # at the own center, opposite to it, and without a direction
        embeddings = length * centers[labels]
        value, (gradient,) = value_and_gradients(loss, embeddings)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() <= 200  # scale * m1 / norm and some rounding, not 1e8
        if length == 0:
            assert (gradient == 0).all()
        for gradient in mean_loss_gradients(head, embeddings, centers, labels):
            assert np.isfinite(gradient).all()


def test_a_label_outside_the_range_is_nan_and_no_hit(batch):
    embeddings, labels, centers = batch
    head = with_centers(ArcFace(CLASSES), centers)
    others = np.arange(BATCH) != 4
    for label in (-1, CLASSES, 2**31 - 1):
        labels = np.where(others, labels, label)
        losses, target_cosines, hits = map(ops.convert_to_numpy, head.loss_and_stats(labels, embeddings))
        logits = ops.convert_to_numpy(head(embeddings, labels))
        assert np.isnan(losses[4])
        assert np.isnan(target_cosines[4])
        assert np.isnan(logits[4]).all()
        assert not hits[4]
        assert np.isfinite(losses[others]).all()
        assert np.isfinite(logits[others]).all()


@pytest.mark.parametrize("dtype", ["int64", "uint8", "int16"])
def test_labels_of_any_integer_type_and_as_a_column(dtype, batch):
    embeddings, labels, centers = batch
    head = with_centers(ArcFace(CLASSES), centers)
    expected = ops.convert_to_numpy(head.loss(labels.astype("int32"), embeddings))
    np.testing.assert_array_equal(ops.convert_to_numpy(head.loss(labels.astype(dtype)[:, None], embeddings)), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_small_label_types_work_with_more_classes_than_they_can_count(dtype):
    embeddings = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    head = ArcFace(1000)
    expected = ops.convert_to_numpy(head.loss(np.array([1, 2, 100], "int32"), embeddings))
    np.testing.assert_array_equal(ops.convert_to_numpy(head.loss(np.array([1, 2, 100], dtype), embeddings)), expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(BATCH, np.float32), "must be integer labels in .0, 41.*Received: labels of dtype float32"),
        (np.zeros((BATCH, CLASSES), np.int32), r"one label per embedding.*shape \(17, 41\)"),
        (np.zeros(BATCH - 1, np.int32), r"one label per embedding.*shape \(16,\) for embeddings of shape \(17, 24\)"),
    ],
)
def test_labels_of_another_kind_are_refused(labels, message, batch):
    embeddings, _, centers = batch
    head = with_centers(ArcFace(CLASSES), centers)
    with pytest.raises(ValueError, match=message):
        head(embeddings, labels)
    with pytest.raises(ValueError, match=message):
        head.loss(labels, embeddings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an integer of at least 2. Received: num_classes=1"),
        ({"num_classes": 10.5}, "Received: num_classes=10.5"),
        ({"num_classes": 10, "scale": 0}, "scale must be above 0. Received: scale=0"),
        ({"num_classes": 10, "margin": 0.5}, "margin must be None or a callable"),
        ({"num_classes": 10, "warmup_steps": -1}, "warmup_steps must be an integer of at least 0. Received: .*=-1"),
        ({"num_classes": 10, "warmup_steps": 5, "initial_scale": 0}, "initial_scale must be None or above 0"),
        (
            {"num_classes": 10, "initial_scale": 8.0},
            "initial_scale must be None without warmup_steps.*=8.0",
        ),
        ({"num_classes": 10, "label_smoothing": 1}, r"label_smoothing must be in \[0, 1\). Received: .*=1"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        MarginProduct(**arguments)


def test_embeddings_that_are_a_feature_map_are_refused():
    with pytest.raises(ValueError, match=r"embeddings of shape \(batch, dim\).*\(2, 7, 7, 8\)"):
        ArcFace(CLASSES)(np.zeros((2, 7, 7, 8), np.float32))


def test_a_functional_model_trains_with_the_head_in_it(batch):
    embeddings, labels, _ = batch
    inputs, targets = keras.Input((DIM,)), keras.Input((), dtype="int32")
    outputs = ArcFace(CLASSES, scale=16.0)(keras.layers.Dense(DIM)(inputs), targets)
    assert outputs.shape == (None, CLASSES)
    model = keras.Model([inputs, targets], outputs)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit([embeddings, labels], labels, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
