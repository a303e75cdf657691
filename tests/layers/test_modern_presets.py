"""The presets are `MarginProduct` with the values of the papers."""

import numpy as np
import pytest
from comparing import CLASSES
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
# A class and its arguments, and the margin and negatives that it must be equal to.
PRESETS = {
    "NormSoftmax": ("NormSoftmax", {}, None, None),
    "AdaFace": ("AdaFace", {}, AdaptiveMargin(0.4, 0.333, 0.99), None),
    "MagFace": ("MagFace", {}, MagnitudeMargin(0.45, 0.8, 10.0, 110.0, 35.0), None),
    "ElasticFace": ("ElasticFace", {}, ElasticMargin(0.5, 0.05), None),
    "ElasticFace-Cos": ("ElasticFace", {"margin": 0.35, "angular": False}, ElasticMargin(0.35, 0.05, False), None),
    "ElasticFace+": ("ElasticFace", {"std": 0.0175, "sort": True}, ElasticMargin(0.5, 0.0175, sort=True), None),
    "CurricularFace": ("CurricularFace", {}, ARC, CurricularNegatives(0.99)),
    "MVSoftmax": ("MVSoftmax", {}, ARC, MisclassifiedNegatives(1.2)),
    "MV-AM-Softmax": ("MVSoftmax", {"margin": 0.35, "angular": False}, COS, MisclassifiedNegatives(1.2)),
    "MVSoftmax, fixed": ("MVSoftmax", {"weight": 1.1, "fixed": True}, ARC, MisclassifiedNegatives(1.1, True)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_equals_its_margin_product(name):
    embeddings, labels, centers = problem()
    embeddings = 20 * embeddings  # so long that MagFace's margin depends on it
    kind, arguments, margin, negatives = PRESETS[name]
    plain = with_centers(MarginProduct(CLASSES, margin=margin, scale=64.0, negatives=negatives), centers)
    preset = with_centers(getattr(layers, kind)(CLASSES, **arguments), centers)
    assert preset.scale == 64.0
    for ours, theirs in zip(
        preset.loss_and_stats(labels, embeddings, training=True),
        plain.loss_and_stats(labels, embeddings, training=True),
        strict=True,
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


@pytest.mark.parametrize("wrong", [{"margin": 0.5}, {"negatives": CurricularNegatives()}, {"label_smoothing": 0.1}])
def test_a_preset_refuses_the_arguments_that_it_sets(wrong):
    kind = layers.NormSoftmax if "margin" in wrong else layers.CurricularFace
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        kind(CLASSES, **wrong)
