import keras
import numpy as np
import pytest
import references
from gradients import value_and_gradients
from keras import ops

from keras_arcface.margins import Batch
from keras_arcface.margins import ClassSizeMargin
from keras_arcface.margins import CombinedMargin
from keras_arcface.margins import Margin

MARGINS = {
    "ArcFace .5": {"m2": 0.5},
    "CosFace .35": {"m3": 0.35},
    "SphereFace 1.35": {"m1": 1.35},
    "SphereFace 4": {"m1": 4.0},
    "combined (1, .3, .2)": {"m2": 0.3, "m3": 0.2},
    "combined (.9, .4, .15)": {"m1": 0.9, "m2": 0.4, "m3": 0.15},
}
all_margins = pytest.mark.parametrize("margin", MARGINS.values(), ids=MARGINS.keys())
ANGLES = np.linspace(0, np.pi, 10001)


def psi(cosines, margin):
    return ops.convert_to_numpy(CombinedMargin(**margin)(ops.convert_to_tensor(np.asarray(cosines, np.float32))))


@all_margins
def test_psi_equals_its_formula_at_every_angle(margin):
    cosines = np.cos(ANGLES).astype(np.float32)
    # The formula at the float32 cosine that psi is given: what is left is psi's own error.
    own = np.abs(psi(cosines, margin) - references.psi(np.arccos(cosines.astype(np.float64)), **margin))
    print(f"{margin}: largest error {own.max():.1e} at the cosine given")
    assert own.max() < 4e-6
    # The formula at the angle itself: near the ends a float32 cosine no longer tells angles apart.
    errors = np.abs(psi(cosines, margin) - references.psi(ANGLES, **margin))
    inner = errors[(ANGLES > 0.02) & (np.pi - 0.02 > ANGLES)].max()
    print(f"{margin}: largest error {inner:.1e} at the angle, {errors.max():.1e} within 0.02 of the ends")
    assert inner < 1e-5
    assert errors.max() < 1e-3


@all_margins
def test_psi_falls_everywhere_without_jumps(margin):
    values = psi(np.cos(ANGLES), margin)
    steps = np.diff(values)
    assert steps.max() <= 1e-6  # rounding
    assert steps.min() > -4 * margin.get("m1", 1.0) * np.pi / 10000


@all_margins
def test_psi_is_never_above_the_cosine(margin):
    cosines = np.cos(ANGLES).astype(np.float32)
    assert (psi(cosines, margin) <= cosines + 1e-6).all()


@all_margins
def test_slope_equals_the_formula_away_from_the_ends(margin):
    angles = np.linspace(0.05, np.pi - 0.05, 1001)
    _, (slopes,) = value_and_gradients(
        lambda cosines: ops.sum(CombinedMargin(**margin)(cosines)), np.cos(angles).astype(np.float32)
    )
    np.testing.assert_allclose(slopes, references.psi_slope(angles, **margin), atol=2e-3, rtol=1e-3)


@all_margins
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0000001, -1.0000001])
def test_value_and_slope_are_finite_at_the_ends(margin, cosine):
    value, (slope,) = value_and_gradients(lambda c: CombinedMargin(**margin)(c), np.float32(cosine))
    assert np.isfinite(value)
    assert np.isfinite(slope)
    theta = 0.0 if cosine > 0 else np.pi
    assert value == pytest.approx(references.psi(theta, **margin), abs=1e-5)


@all_margins
def test_nan_stays_nan(margin):
    assert np.isnan(psi(np.nan, margin))


def test_cosface_slope_is_one_to_the_very_end():
    _, (slope,) = value_and_gradients(lambda c: CombinedMargin(m3=0.35)(c), np.float32(0.9999999))
    assert slope == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"m1": 0.0}, "m1 must be above 0. Received: m1=0"),
        ({"m2": -0.1}, "at least 0. Received: m2=-0.1"),
        ({"m3": -0.1}, "m3=-0.1"),
        ({"m2": float("nan")}, "m2 must be a finite number. Received: m2=nan"),
        ({"m2": "0.5"}, "m2 must be a finite number. Received: m2='0.5'"),
        ({"m1": 0.9}, "m2 must be at least"),
    ],
)
def test_margins_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        CombinedMargin(**arguments)


def test_an_unfinished_margin_says_what_it_lacks():
    class Empty(Margin):
        pass

    with pytest.raises(NotImplementedError, match="Empty does not implement __call__"):
        Empty()(0.5)


def test_the_margin_of_a_class_falls_with_its_size():
    sizes = [1, 16, 81, 10_000]
    margin = ClassSizeMargin(sizes, min_margin=0.1, max_margin=0.4)
    # n^(-1/4): 1, 1/2, 1/3, 1/10
    np.testing.assert_allclose(margin.margins, [0.4, 0.1 + 0.3 * 4 / 9, 0.1 + 0.3 * 7 / 27, 0.1], rtol=1e-12)
    assert ClassSizeMargin([7, 7]).margins == [0.05, 0.05]


def batch_of(labels):
    return Batch(ops.convert_to_tensor(labels), ops.ones(len(labels)), None, None, None, {})


def test_each_example_has_the_margin_of_its_class():
    margin = ClassSizeMargin([1, 16, 10_000])
    labels, cosines = np.array([2, 0, 1, 0], "int32"), np.float32([0.3, 0.9, -0.2, -0.99])
    result = ops.convert_to_numpy(margin.for_batch(batch_of(labels))(ops.convert_to_tensor(cosines)))
    for label, cosine, penalized in zip(labels, cosines, result, strict=True):
        assert penalized == pytest.approx(psi(cosine, {"m2": margin.margins[label]}), abs=1e-6)


def test_config_and_repr_of_a_class_size_margin():
    margin = ClassSizeMargin(np.array([3, 5, 9]), power=0.5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(margin))
    assert copy.margins == margin.margins
    assert repr(margin) == "ClassSizeMargin([3 classes of 3 to 9], min_margin=0.05, max_margin=0.5, power=0.5)"
    with pytest.raises(TypeError, match="for_batch"):
        margin(ops.zeros(3))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"class_sizes": [4, 0, 2]}, "Received: class_sizes with 3 classes, class 1 with 0"),
        ({"class_sizes": []}, "Received: class_sizes with 0 classes"),
        ({"class_sizes": [1, 2], "min_margin": 0.6}, "min_margin=0.6"),
        ({"class_sizes": [1, 2], "power": 0}, "power=0"),
    ],
)
def test_class_size_margins_out_of_range_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        ClassSizeMargin(**arguments)
