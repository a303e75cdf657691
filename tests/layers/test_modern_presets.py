"""The presets are `MarginProduct` with the papers' values, and survive saving."""

import keras
import numpy as np
import pytest
from comparing import CLASSES
from comparing import DIM
from comparing import assert_goes_on_after_loading
from comparing import model_of
from comparing import problem
from gradients import with_centers
from keras import ops

from keras_arcface import MarginProduct
from keras_arcface import layers
from keras_arcface.layers import CurricularNegatives
from keras_arcface.layers import MisclassifiedNegatives
from keras_arcface.margins import AdaptiveMargin
from keras_arcface.margins import CombinedMargin
from keras_arcface.margins import ElasticMargin
from keras_arcface.margins import MagnitudeMargin

ARC, COS = CombinedMargin(m2=0.5), CombinedMargin(m3=0.35)
# What is called, with what, and the margin and negatives that it is.
PRESETS = {
    "NormSoftmax": ("NormSoftmax", {}, None, None),
    "AdaFace": ("AdaFace", {}, AdaptiveMargin(0.4, 0.333, 0.99), None),
    "AdaFace, other": ("AdaFace", {"margin": 0.3, "concentration": 0.2, "momentum": 0.9, "scale": 8.0}, None, None),
    "MagFace": ("MagFace", {}, MagnitudeMargin(0.45, 0.8, 10.0, 110.0, 35.0), None),
    "MagFace, other": ("MagFace", {"smallest": 0.1, "longest": 60, "weight": 20}, None, None),
    "ElasticFace": ("ElasticFace", {}, ElasticMargin(0.5, 0.05), None),
    "ElasticFace-Cos": ("ElasticFace", {"margin": 0.35, "angular": False}, ElasticMargin(0.35, 0.05, False), None),
    "ElasticFace+": ("ElasticFace", {"std": 0.0175, "sort": True}, ElasticMargin(0.5, 0.0175, sort=True), None),
    "CurricularFace": ("CurricularFace", {}, ARC, CurricularNegatives(0.99)),
    "CurricularFace, other": ("CurricularFace", {"margin": 0.4, "momentum": 0.5, "chunk_size": 3}, None, None),
    "MVSoftmax": ("MVSoftmax", {}, ARC, MisclassifiedNegatives(1.2)),
    "MV-AM-Softmax": ("MVSoftmax", {"margin": 0.35, "angular": False}, COS, MisclassifiedNegatives(1.2)),
    "MVSoftmax, fixed": ("MVSoftmax", {"weight": 1.1, "fixed": True}, ARC, MisclassifiedNegatives(1.1, True)),
}
every_preset = pytest.mark.parametrize("name", PRESETS)


def make(preset, **options):
    kind, arguments, *_ = PRESETS[preset]
    return getattr(layers, kind)(CLASSES, **{**arguments, **options})


@pytest.mark.parametrize("name", [name for name in PRESETS if "other" not in name])
def test_a_preset_equals_its_margin_product(name):
    embeddings, labels, centers = problem()
    embeddings = 20 * embeddings  # so long that MagFace's margin depends on it
    _, _, margin, negatives = PRESETS[name]
    plain = with_centers(MarginProduct(CLASSES, margin=margin, scale=64.0, negatives=negatives), centers)
    preset = with_centers(make(name), centers)
    assert preset.scale == 64.0
    for ours, theirs in zip(
        preset.loss_and_stats(labels, embeddings, training=True),
        plain.loss_and_stats(labels, embeddings, training=True),
        strict=True,
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


@every_preset
def test_config_round_trip(name):
    head = make(name, name="head", warmup_steps=3)
    config = head.get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert type(copy) is type(head)
    assert copy.get_config() == config
    assert {n: config[n] for n in PRESETS[name][1]} == PRESETS[name][1]
    for part in ("margin", "negatives"):
        ours, theirs = getattr(head, part), getattr(copy, part)
        assert type(ours) is type(theirs)
        assert ours is None or ours.get_config() == theirs.get_config()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AdaFace", "MagFace", "ElasticFace+", "CurricularFace", "MVSoftmax"])
def test_training_continues_after_loading(name, tmp_path):
    embeddings, labels, _ = problem()
    model = model_of(make(name, scale=8.0))
    loaded = assert_goes_on_after_loading(model, 4 * embeddings, labels, tmp_path)
    assert int(loaded.head.steps) == 4
    assert loaded.head.centers.shape == (CLASSES, DIM)


@pytest.mark.parametrize("wrong", [{"margin": 0.5}, {"negatives": CurricularNegatives()}, {"label_smoothing": 0.1}])
def test_a_preset_refuses_the_arguments_that_it_sets(wrong):
    kind = layers.NormSoftmax if "margin" in wrong else layers.CurricularFace
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        kind(CLASSES, **wrong)
