"""Heads with distillation against float64, and models with a teacher in the training step."""

import json

import keras
import numpy as np
import pytest
import references
from comparing import BATCH
from comparing import CLASSES
from comparing import DIM
from comparing import assert_is
from comparing import problem
from comparing import unit
from gradients import value_and_gradients
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.layers import EmbeddingHead
from keras_arcface.layers import SoftmaxProduct
from keras_arcface.layers import WithCenterLoss
from keras_arcface.layers import WithDistillation
from keras_arcface.layers import WithIntraLoss
from keras_arcface.layers import WithQuality
from keras_arcface.layers import set_teacher_centers
from keras_arcface.losses import TripletLoss
from keras_arcface.training import Checkpoints

TEACHER_DIM = 4


def arcface(classes=CLASSES, **options):
    return ArcFace(classes, margin=0.4, scale=8.0, **options)


def teacher_embeddings(dim=DIM):
    return np.random.default_rng(7).normal(size=(BATCH, dim)).astype("float32")


def embedder(dim, name, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(inputs))
    return keras.Model(inputs, keras.layers.Dense(dim)(x), name=name)


def small_images():
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3)).astype("uint8")
    return images, problem()[1]


def model_with_teacher(head, teacher=None, dim=DIM, rate=0.01):
    model = RecognitionModel(embedder(dim, "student", seed=2), head, teacher)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9))
    return model


@pytest.mark.parametrize("projects", [False, True])
def test_loss_and_gradients_equal_the_formula(projects):
    embeddings, labels, centers = problem()
    targets = teacher_embeddings(TEACHER_DIM if projects else DIM)
    head = WithDistillation(arcface(), weight=3.0, head_weight=0.5, teacher_dim=targets.shape[1])
    head.build((None, DIM))
    head.head.centers.assign(centers)
    kernel = ops.convert_to_numpy(head.projection.kernel).astype("float64") if projects else np.eye(DIM)

    def losses(embeddings, centers):
        cosines = (unit(embeddings @ kernel) * unit(targets.astype("float64"))).sum(axis=1)
        return 0.5 * references.losses(embeddings, centers, labels, 8.0, m2=0.4) + 3.0 * (1 - cosines)

    assert_is(losses, head, embeddings, (labels, targets), centers)
    plain = arcface()
    plain.build((None, DIM))
    plain.centers.assign(centers)
    statistics = head.loss_and_stats((labels, targets), embeddings)[1:]
    for ours, theirs in zip(statistics, plain.loss_and_stats(labels, embeddings)[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(head(embeddings, labels), plain(embeddings, labels))


def test_the_teacher_gets_no_gradient():
    embeddings, labels, _ = problem()
    head = WithDistillation(arcface(), weight=3.0)
    head.build((None, DIM))
    _, (to_embeddings, to_teacher) = value_and_gradients(
        lambda x, t: ops.mean(head.loss((labels, t), x)), embeddings, teacher_embeddings()
    )
    assert to_embeddings.any()
    assert not to_teacher.any()


def test_a_wrong_label_and_zero_embeddings():
    embeddings, labels, _ = problem()
    targets, labels = teacher_embeddings(), labels.copy()
    labels[2], embeddings[3], targets[4] = CLASSES, 0, 0
    head = WithDistillation(arcface(), head_weight=0.0)
    losses, _, hits = map(ops.convert_to_numpy, head.loss_and_stats((labels, targets), embeddings))
    np.testing.assert_array_equal(np.isnan(losses), np.arange(BATCH) == 2)
    np.testing.assert_allclose(losses[3:5], 1.0, rtol=1e-6)
    assert not hits[2]
    value, (gradient, _) = value_and_gradients(
        lambda x, t: ops.mean(head.loss((labels, t), x)[3:]), embeddings, targets
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient[3:]).all()


INNER = {
    "ArcFace": arcface,
    "sampled": lambda: arcface(40, sample_rate=0.5),
    "center loss": lambda: WithCenterLoss(SoftmaxProduct(CLASSES)),
    "quality": lambda: WithQuality(arcface(), weight=1.0),
    "triplets": lambda: EmbeddingHead(TripletLoss()),
}


@pytest.mark.parametrize("dim", [TEACHER_DIM, DIM])
@pytest.mark.parametrize("inner", INNER)
def test_a_teacher_in_the_model_equals_stored_embeddings(inner, dim, tmp_path):
    images, labels = small_images()
    teacher = embedder(TEACHER_DIM, "teacher", seed=1)
    before = [ops.convert_to_numpy(variable).copy() for variable in teacher.variables]
    targets = teacher.predict(images, verbose=0)
    histories, models = [], []
    for model_teacher, given in ((teacher, labels), (None, (labels, targets))):
        keras.utils.set_random_seed(3)
        head = WithDistillation(INNER[inner](), weight=5.0, head_weight=0.1, teacher_dim=TEACHER_DIM)
        model = model_with_teacher(head, model_teacher, dim, rate=0.002)
        history = model.fit(images, given, batch_size=BATCH, epochs=3, shuffle=False, verbose=0).history
        histories.append(history)
        models.append(model)
        evaluated = model.evaluate(images, given, batch_size=BATCH, verbose=0, return_dict=True)
        predicted = model.predict(images, verbose=0)
        projected = predicted if dim == TEACHER_DIM else ops.convert_to_numpy(head.projection(predicted))
        cosines = (unit(projected) * unit(targets)).sum(axis=1)
        assert evaluated["teacher_cosine"] == pytest.approx(cosines.mean(), abs=1e-5)
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert histories[0]["teacher_cosine"][-1] > histories[0]["teacher_cosine"][0]
    for variable, old in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), old)
    assert len(models[0].variables) == len(models[1].variables)
    assert not any(variable is own for own in models[0].variables for variable in teacher.variables)
    models[0].save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert json.dumps(loaded.head.get_config()) == json.dumps(models[0].head.get_config())
    for ours, theirs in zip(models[0].weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))
    loaded.fit(images, (labels, targets), batch_size=BATCH, verbose=0)


def test_a_resumed_run_equals_an_uninterrupted_one_and_checkpoints_have_no_teacher(tmp_path):
    images, labels = small_images()
    teacher = embedder(TEACHER_DIM, "teacher", seed=1)

    def train(folder, epochs):
        keras.utils.set_random_seed(3)
        model = model_with_teacher(WithDistillation(arcface(), teacher_dim=TEACHER_DIM), teacher)
        checkpoints = Checkpoints(tmp_path / folder, every_steps=1)
        start = checkpoints.restore(model)
        options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
        model.fit(images, labels, initial_epoch=start, epochs=epochs, callbacks=[checkpoints], **options)
        return start, [ops.convert_to_numpy(variable) for variable in model.variables]

    _, straight = train("one", 4)
    assert train("two", 3)[0] == 0
    start, resumed = train("two", 4)
    assert start == 2
    for ours, theirs in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with np.load(tmp_path / "two" / "step-0000000002.npz") as archive:
        kernel = next(variable for variable in teacher.variables if "kernel" in variable.path)
        assert tuple(kernel.shape) not in [archive[name].shape for name in archive.files]


def test_the_saved_embedder_has_neither_head_nor_teacher(tmp_path):
    images, labels = small_images()
    teacher = embedder(TEACHER_DIM, "teacher", seed=1)
    model = model_with_teacher(WithDistillation(arcface(), teacher_dim=TEACHER_DIM), teacher)
    model.fit(images, labels, batch_size=BATCH, verbose=0)
    model.embedder.save(tmp_path / "embedder.keras")
    loaded = keras.saving.load_model(tmp_path / "embedder.keras")
    assert loaded.count_params() == embedder(DIM, "student", seed=2).count_params()
    np.testing.assert_array_equal(loaded(images), model.embedder(images))


@pytest.mark.parametrize("fixed", [False, True])
def test_centers_of_a_teacher(fixed, tmp_path):
    images, labels = small_images()
    centers = 3 * np.random.default_rng(1).normal(size=(CLASSES, TEACHER_DIM))
    teacher = embedder(TEACHER_DIM, "teacher", seed=1)
    head = WithDistillation(WithIntraLoss(arcface()), weight=2.0)
    set_teacher_centers(head, centers, fixed=fixed)
    expected = ops.convert_to_numpy(head.centers).copy()
    np.testing.assert_allclose(expected, unit(centers), rtol=1e-6)
    model = model_with_teacher(head, teacher, TEACHER_DIM)
    model.fit(images, labels, batch_size=BATCH, verbose=0)
    assert np.array_equal(ops.convert_to_numpy(head.centers), expected) == fixed
    assert any(variable is head.centers for variable in model.trainable_variables) != fixed
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(images, (labels, teacher.predict(images, verbose=0)), batch_size=BATCH, verbose=0)
    assert np.array_equal(ops.convert_to_numpy(loaded.head.centers), expected) == fixed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WithDistillation(arcface(), weight=-1), "Received: weight=-1"),
        (lambda: WithDistillation(arcface(), head_weight=-1), "Received: head_weight=-1"),
        (lambda: WithDistillation(arcface(), teacher_dim=0), "Received: teacher_dim=0"),
        (lambda: WithDistillation(WithDistillation(arcface())), "head must be a head without distillation"),
        (lambda: WithIntraLoss(WithDistillation(arcface())), "head must be a head with classes"),
        (lambda: set_teacher_centers(EmbeddingHead(TripletLoss()), np.eye(3)), "one center per class"),
        (lambda: set_teacher_centers(arcface(sub_centers=2), np.eye(CLASSES)), "one center per class"),
        (lambda: set_teacher_centers(arcface(sample_rate=0.5), np.eye(CLASSES), fixed=True), "must not sample"),
        (
            lambda: set_teacher_centers(arcface(), np.eye(3)),
            r"\(7, dim\). Received: the shape of centers=\(3, 3",
        ),
        (lambda: set_teacher_centers(arcface(), np.eye(CLASSES, 3)), r"for the classes \[3 4 5 6\]"),
        (
            lambda: model_with_teacher(arcface(), embedder(TEACHER_DIM, "teacher", seed=1)),
            "head must be keras_arcface.layers.WithDistillation if a teacher is given",
        ),
        (
            lambda: WithDistillation(arcface()).loss((problem()[1], teacher_embeddings(TEACHER_DIM)), problem()[0]),
            r"must have 6 dimensions. .* Received: teacher embeddings of shape \(9, 4\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_without_teacher_embeddings_are_refused():
    embeddings, labels, _ = problem()
    images, _ = small_images()
    with pytest.raises(ValueError, match=r"must be a pair \(labels, teacher_embeddings\).* Received: labels=\(9,\)"):
        WithDistillation(arcface()).loss(labels, embeddings)
    with pytest.raises(ValueError, match=r"must be a pair \(labels, teacher_embeddings\)"):
        model_with_teacher(WithDistillation(arcface())).fit(images, labels, batch_size=BATCH, verbose=0)
    targets = teacher_embeddings()
    with pytest.raises(ValueError, match=r"must be integers in .* Received: labels from"):
        model_with_teacher(WithDistillation(arcface())).fit(images, (labels + CLASSES, targets), verbose=0)
    with pytest.raises(TypeError, match="teacher must be a Keras model"):
        model_with_teacher(WithDistillation(arcface()), teacher=lambda images: images)
    head = WithDistillation(arcface())
    head.build((None, DIM))
    with pytest.raises(ValueError, match="do not include the distance to the teacher"):
        head(embeddings, labels, training=True)


def test_the_expected_first_loss():
    head = WithDistillation(arcface(), weight=3.0, head_weight=0.5)
    assert head.expected_first_loss(512) == 0.5 * arcface().expected_first_loss(512) + 3.0
