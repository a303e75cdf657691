"""What heads refuse, what they call themselves, and that none trains without its margin."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_arcface
from keras_arcface import layers
from keras_arcface import losses
from keras_arcface import margins
from keras_arcface.layers import ArcFace
from keras_arcface.layers import CosFace
from keras_arcface.layers import MarginProduct
from keras_arcface.layers import NormSoftmax
from keras_arcface.layers import SphereFace

CLASSES = 5
DEGREES = r"margin must be an angle in radians of at most 1\.5708\. Received: margin=28\.6 \(28\.6 degrees are 0\.4992 "
PERCENT = r"margin must be a cosine of at most 1\. Received: margin=35 \(35 percent are 0\.35\)"
LENGTH = r"margin.* Received: margin=512 \(the dimension of the embeddings is not an argument"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArcFace(CLASSES, margin=28.6), DEGREES),
        (lambda: layers.CurricularFace(CLASSES, margin=28.6), DEGREES),
        (lambda: layers.ElasticFace(CLASSES, margin=28.6), DEGREES),
        (lambda: layers.MVSoftmax(CLASSES, margin=28.6), DEGREES),
        (
            lambda: layers.MagFace(CLASSES, max_margin=45.0),
            r"max_margin must be an angle.*45 degrees are 0\.7854 radians",
        ),
        (
            lambda: margins.ClassSizeMargin([1, 2], max_margin=30),
            r"max_margin must be an angle.*30 degrees are 0\.5236",
        ),
        (lambda: margins.ElasticMargin(std=3.0), r"std must be an angle.*3 degrees are 0\.0524 radians"),
        (lambda: margins.CombinedMargin(m2=28.6), r"m2 must be an angle in radians of at most 1\.5708"),
        (lambda: CosFace(CLASSES, margin=35.0), PERCENT),
        (lambda: layers.AdaFace(CLASSES, margin=35.0), PERCENT),
        (lambda: layers.UniFace(CLASSES, margin=35), PERCENT),
        (lambda: layers.QMargin(CLASSES, margin=35), PERCENT),
        (lambda: layers.ElasticFace(CLASSES, margin=35, angular=False), PERCENT),
        (lambda: layers.MVSoftmax(CLASSES, margin=35, angular=False), PERCENT),
        (lambda: margins.CombinedMargin(m3=35), "m3 must be a cosine of at most 1"),
        (lambda: ArcFace(40, margin=512), LENGTH),
        (lambda: CosFace(40, margin=512), LENGTH),
        (lambda: SphereFace(40, margin=512), LENGTH),
        (lambda: layers.LSoftmax(40, margin=512), LENGTH),
        (
            lambda: SphereFace(40, margin=0.5),
            r"factor on the angle, at least 1 and at most 10\. Received: margin=0\.5$",
        ),
        (lambda: losses.TripletLoss(margin=20), r"in \[0, 4\] with squared=True\. Received: .*=20"),
        (lambda: losses.TripletLoss(margin=2.5, squared=False), r"in \[0, 2\] with squared=False"),
    ],
)
def test_an_implausible_margin_is_refused_with_the_likely_mistake(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_published_and_extreme_margins_are_not_refused():
    ArcFace(CLASSES, margin=math.pi / 2)
    CosFace(CLASSES, margin=1)
    SphereFace(CLASSES, margin=4)
    margins.CombinedMargin(0.9, 0.4, 0.15)
    margins.CombinedMargin(m1=0.25, m2=0.75 * math.pi + 0.5)  # as much beyond its least as ArcFace's


NAMES = ("ArcFace", "CosFace", "SphereFace", "AdaFace", "MagFace", "ElasticFace", "CurricularFace", "MVSoftmax")
NAMES += ("UniFace", "QMargin", "NormSoftmax", "MarginProduct", "LSoftmax", "ASoftmax", "SoftmaxProduct")


@pytest.mark.parametrize("name", NAMES)
def test_only_num_classes_is_positional(name):
    message = rf"{name} must have num_classes as its only positional.*of the embeddings.*Received: {name}\(40, 512\)"
    with pytest.raises(TypeError, match=message):
        getattr(layers, name)(40, 512)


def test_a_subclass_may_take_positional_arguments():
    class Mine(ArcFace):
        def __init__(self, num_classes, dim):
            super().__init__(num_classes)
            self.dim = dim

    assert Mine(CLASSES, 512).dim == 512


EMBEDDINGS = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
LABELS = np.arange(6) % CLASSES


@pytest.mark.parametrize(
    "head",
    [
        ArcFace(CLASSES, name="head"),
        MarginProduct(CLASSES, negatives=layers.MisclassifiedNegatives(), name="head"),
        layers.LSoftmax(CLASSES, name="head"),
        layers.WithIntraLoss(ArcFace(CLASSES), name="head"),
    ],
    ids=lambda head: type(head).__name__,
)
def test_a_head_does_not_train_without_labels(head):
    head(EMBEDDINGS, LABELS)  # labels of another call change nothing
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), head])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert model.predict(EMBEDDINGS, verbose=0).shape == (6, CLASSES)
    assert np.isfinite(model.evaluate(EMBEDDINGS, LABELS, verbose=0))
    with pytest.raises(ValueError, match=r"head cannot train without labels.*RecognitionModel\(embedder, head\)"):
        model.fit(EMBEDDINGS, LABELS, verbose=0)


@pytest.mark.parametrize("head", [NormSoftmax, layers.SoftmaxProduct, lambda n: layers.LSoftmax(n, margin=1)])
def test_a_head_without_a_margin_trains_without_labels(head):
    model = keras.Sequential([keras.Input((4,)), head(CLASSES)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(model.fit(EMBEDDINGS, LABELS, verbose=0).history["loss"]).all()


def test_plain_logits_beside_those_with_the_margin_are_allowed():
    embeddings, labels = keras.Input((4,)), keras.Input((), dtype="int32")
    head = ArcFace(CLASSES, scale=8.0)
    model = keras.Model([embeddings, labels], {"penalized": head(embeddings, labels), "plain": head(embeddings)})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"penalized": loss}, metrics={"plain": "sparse_categorical_accuracy"})
    history = model.fit([EMBEDDINGS, LABELS], {"penalized": LABELS, "plain": LABELS}, verbose=0).history
    assert np.isfinite(history["loss"]).all()


# Heads with a part of the loss that logits lack.
BEYOND_LOGITS = {
    "sample_rate": (lambda: ArcFace(CLASSES, sample_rate=0.5), "sample of classes"),
    "label_smoothing": (lambda: ArcFace(CLASSES, label_smoothing=0.1), "label_smoothing"),
    "regularizer": (lambda: keras_arcface.MagFace(CLASSES), "regularizer of MagnitudeMargin"),
    "one-vs-rest": (lambda: keras_arcface.UniFace(CLASSES), "one-vs-rest loss"),
    "divergence": (lambda: layers.QMargin(CLASSES), "loss of the alpha-divergence"),
    "auxiliary loss": (lambda: layers.WithIntraLoss(ArcFace(CLASSES)), "auxiliary loss of WithIntraLoss"),
}


@pytest.mark.parametrize("name", BEYOND_LOGITS)
def test_a_head_is_not_trained_by_logits_that_lack_a_part_of_its_loss(name):
    """With sample_rate=0.1 the centers of a functional model stood still, with only a generic warning of Keras."""
    make, missing = BEYOND_LOGITS[name]
    message = f"cannot be trained by its logits.*{missing}.*RecognitionModel"
    with pytest.raises(ValueError, match=f"{message}.*in a functional model"):
        make()(keras.Input((4,)), keras.Input((), dtype="int32"))
    with pytest.raises(ValueError, match=f"{message}.*training=True"):
        make()(EMBEDDINGS, LABELS, training=True)
    assert make()(EMBEDDINGS, LABELS).shape == (6, CLASSES)


@pytest.mark.parametrize(
    "head", [ArcFace, layers.LSoftmax, layers.SoftmaxProduct, keras_arcface.UniFace, layers.QMargin]
)
def test_swapped_arguments_of_loss_are_refused(head):
    head = head(CLASSES, name="head")
    with pytest.raises(ValueError, match=r"wrong order. Expected: loss\(labels, embeddings\)"):
        head.loss(EMBEDDINGS, LABELS)
    with pytest.raises(ValueError, match=r"wrong order. Expected: loss\(labels, embeddings\)"):
        head.loss_and_stats(EMBEDDINGS.astype("float16"), LABELS.astype("int64"))


@pytest.mark.parametrize("is_built", [False, True])
@pytest.mark.parametrize("head", [ArcFace, layers.LSoftmax, lambda n: layers.WithIntraLoss(ArcFace(n))])
def test_a_swapped_call_is_refused(head, is_built):
    head = head(CLASSES)
    if is_built:
        head.build((None, 4))
    with pytest.raises(ValueError, match=r"(?s)head\(embeddings, labels\)"):
        head(LABELS, EMBEDDINGS)


@pytest.mark.parametrize("name", ["ArcFace", "CosFace", "SphereFace"])
def test_a_head_has_the_name_of_the_paper_and_loads_by_both_names(name):
    cls, other = getattr(layers, name), name.replace("Face", "MarginProduct")
    assert cls.__name__ == name
    assert getattr(keras_arcface, other) is cls
    saved = keras.saving.serialize_keras_object(cls(CLASSES))
    assert (saved["class_name"], saved["registered_name"]) == (name, f"keras_arcface>{name}")
    before = {**saved, "class_name": other, "registered_name": f"keras_arcface>{other}"}
    assert type(keras.saving.deserialize_keras_object(before)) is cls


def test_reprs():
    assert (
        repr(ArcFace(CLASSES, name="head")) == "<ArcFace num_classes=5, margin=0.5, scale=64.0, name=head, built=False>"
    )
    combined = MarginProduct(CLASSES, margin=margins.CombinedMargin(m2=0.3, m3=0.2), name="head")
    assert "margin=CombinedMargin(m1=1.0, m2=0.3, m3=0.2), scale=64.0" in repr(combined)
    assert "num_classes=5, margin=None" in repr(NormSoftmax(CLASSES))
    assert "MagnitudeMargin(min_margin=0.45, max_margin=0.8" in repr(layers.MagFace(CLASSES))
    assert repr(layers.LSoftmax(CLASSES, name="head")) == "<LSoftmax num_classes=5, margin=4, name=head, built=False>"
    outer = layers.WithCenterLoss(layers.SoftmaxProduct(CLASSES, name="head"), name="outer")
    inner = "<SoftmaxProduct num_classes=5, name=head, built=False>"
    assert repr(outer) == f"<WithCenterLoss head={inner}, weight=0.003, name=outer, built=False>"
    triplets = "TripletLoss(margin=0.2, mining='hard', squared=True, normalize=True)"
    head = layers.EmbeddingHead(losses.TripletLoss(), name="head")
    assert repr(head) == f"<EmbeddingHead loss={triplets}, name=head, built=False>"
    assert repr(margins.AdaptiveMargin()) == "AdaptiveMargin(margin=0.4, concentration=0.333, momentum=0.99)"
    assert repr(layers.MisclassifiedNegatives()) == "MisclassifiedNegatives(weight=1.2, fixed=False)"


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (np.eye(CLASSES, dtype="int32")[LABELS], r"one-hot.*labels\.argmax\(axis=-1\)"),
        (np.eye(CLASSES, dtype="float32")[LABELS], r"one-hot.*labels\.argmax\(axis=-1\)"),
        (LABELS.astype("float32"), r"dtype float32.*labels\.astype\('int32'\)"),
    ],
)
def test_labels_of_another_form_are_refused_with_a_remedy(labels, hint):
    head = ArcFace(CLASSES)
    for call in (lambda: head(EMBEDDINGS, labels), lambda: head.loss(labels, EMBEDDINGS)):
        with pytest.raises(ValueError, match=hint):
            call()


@pytest.mark.parametrize("label", [2**31 + 1, 2**32 - 1, 2**32 + 1, 2**63 + 1, 2**64 - 1])
@pytest.mark.parametrize("dtype", ["uint32", "uint64", "int64"])
def test_a_large_label_does_not_wrap_into_a_class(label, dtype):
    if label > np.iinfo(dtype).max:
        pytest.skip(f"{label} is no {dtype}")
    if label >= 2**32 and keras.backend.backend() == "jax":
        pytest.skip("JAX has no integers of 64 bits, and cuts them before a head sees them")
    labels = np.array([1, label, 2], dtype)
    head = ArcFace(CLASSES)
    for result in (head.loss(labels, EMBEDDINGS[:3]), head(EMBEDDINGS[:3], labels)[:, 0]):
        np.testing.assert_array_equal(np.isnan(ops.convert_to_numpy(result)), [False, True, False])
