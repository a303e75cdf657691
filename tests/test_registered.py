"""Every class that the package registers with Keras survives its config, serialization and JSON."""

import keras
import pytest
from every_head import HEADS
from layer_checks import check_config
from layer_checks import parameters_of

from keras_arcface import RecognitionModel
from keras_arcface import layers
from keras_arcface import losses
from keras_arcface import margins
from keras_arcface import training
from keras_arcface.layers.base import Head

CHUNKS = {"chunk_size": 3, "max_cache_bytes": 0}
HEAD = {
    **CHUNKS,
    "num_classes": 7,
    "matmul_dtype": "bfloat16",
    "name": "mine",
}
MARGIN_HEAD = {
    **HEAD,
    "scale": 8.0,
    "centers_initializer": keras.initializers.GlorotUniform(seed=1),
    "centers_regularizer": keras.regularizers.L2(1e-4),
    "warmup_steps": 3,
    "initial_scale": 4.0,
    "sub_centers": 2,
    "ignored_above": 0.9,
    "straight_through": True,
    "sample_seed": 4,
}
ARCFACE = layers.ArcFace(7, margin=0.4)
COUPLED = training.CoupledSGD(training.StepSchedule(0.1, boundaries=[8]))
# Classes, and arguments for them. No argument has its default value: one that is missing in a config shows.
OBJECTS = [
    (margins.CombinedMargin, {"m1": 0.9, "m2": 0.4, "m3": 0.15}),
    (margins.ClassSizeMargin, {"class_sizes": [1, 5, 9], "min_margin": 0.1, "max_margin": 0.4, "power": 0.5}),
    (margins.AdaptiveMargin, {"margin": 0.3, "concentration": 0.2, "momentum": 0.9}),
    (
        margins.MagnitudeMargin,
        {"min_margin": 0.1, "max_margin": 0.5, "min_norm": 2.0, "max_norm": 60.0, "weight": 20.0},
    ),
    (margins.ElasticMargin, {"mean": 0.3, "std": 0.2, "angular": False, "sort": True}),
    (layers.CurricularNegatives, {"momentum": 0.5}),
    (layers.MisclassifiedNegatives, {"weight": 1.3, "fixed": True}),
    (
        losses.TripletLoss,
        {"margin": 0.3, "mining": "semihard", "squared": False, "normalize": False, "name": "mine"},
    ),
    (
        training.StepSchedule,
        {"peak": 0.3, "boundaries": [2.5], "factor": 0.5, "warmup": 0.5, "steps_per_epoch": 10},
    ),
    (
        training.PolynomialSchedule,
        {"peak": 0.1, "total": 4, "power": 2, "warmup": 1, "steps_per_epoch": 10},
    ),
    (
        training.CosineSchedule,
        {"peak": 0.1, "total": 40, "end_factor": 0.1, "warmup": 4, "steps_per_epoch": 2},
    ),
    (
        training.CoupledSGD,
        {
            "learning_rate": training.StepSchedule(0.1, boundaries=[8]),
            "momentum": 0.8,
            "weight_decay": 1e-4,
            "nesterov": True,
            "no_decay": ["gamma"],
            "name": "mine",
            "use_ema": True,
        },
    ),
    (
        training.CoupledAdam,
        {
            "learning_rate": training.StepSchedule(0.1, boundaries=[8]),
            "weight_decay": 1e-4,
            "no_decay": ["gamma"],
            "epsilon": 1e-6,
            "name": "mine",
            "beta_1": 0.8,
        },
    ),
    (
        training.GradientAccumulationOptimizer,
        {"inner_optimizer": COUPLED, "accumulation_steps": 4, "clip_norm": 5.0, "clip": "embedder/", "name": "mine"},
    ),
    (training.SyncedLossScaleOptimizer, {"inner_optimizer": COUPLED, "initial_scale": 16.0}),
    (
        RecognitionModel,
        {"embedder": keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)]), "head": ARCFACE, "name": "mine"},
    ),
    (layers.MarginProduct, {**MARGIN_HEAD, "margin": margins.CombinedMargin(0.9, 0.4, 0.15), "label_smoothing": 0.1}),
    (layers.MarginProduct, {**MARGIN_HEAD, "negatives": layers.MisclassifiedNegatives(1.3)}),
    (layers.MarginProduct, {"num_classes": 8, "sample_rate": 0.5, "sample_groups": 2}),
    (layers.ArcFace, {**MARGIN_HEAD, "margin": 0.4}),
    (layers.CosFace, {**MARGIN_HEAD, "margin": 0.2}),
    (layers.SphereFace, {**MARGIN_HEAD, "margin": 2.0}),
    (layers.NormSoftmax, MARGIN_HEAD),
    (layers.AdaFace, {**MARGIN_HEAD, "margin": 0.3, "concentration": 0.2, "momentum": 0.9}),
    (
        layers.MagFace,
        {**MARGIN_HEAD, "min_margin": 0.1, "max_margin": 0.5, "min_norm": 2.0, "max_norm": 60.0, "weight": 20.0},
    ),
    (layers.ElasticFace, {**MARGIN_HEAD, "margin": 0.3, "std": 0.2, "angular": False, "sort": True}),
    (layers.CurricularFace, {**MARGIN_HEAD, "margin": 0.4, "momentum": 0.5}),
    (layers.MVSoftmax, {**MARGIN_HEAD, "margin": 0.3, "weight": 1.1, "angular": False, "fixed": True}),
    (layers.WithDistillation, {"head": ARCFACE, "weight": 2.0, "head_weight": 0.5, "teacher_dim": 9, "name": "mine"}),
    (
        layers.QMargin,
        {
            **{k: v for k, v in MARGIN_HEAD.items() if k not in ("max_cache_bytes", "matmul_dtype")},
            "margin": 0.3,
            "alpha": 1.2,
        },
    ),
    (layers.UniFace, {**MARGIN_HEAD, "margin": 0.3, "negatives_weight": 0.5}),
    (layers.SoftmaxProduct, {**HEAD, "label_smoothing": 0.1}),
    *(
        (cls, {**HEAD, "margin": 3, "base": 10.0, "gamma": 0.1, "power": 2.0, "minimum": 1.0})
        for cls in (layers.LSoftmax, layers.ASoftmax)
    ),
    (layers.WithCenterLoss, {"head": ARCFACE, "weight": 0.1, "alpha": 0.3, "name": "mine"}),
    (layers.WithIntraLoss, {"head": ARCFACE, "weight": 0.1, "name": "mine"}),
    (layers.WithInterLoss, {"head": ARCFACE, "weight": 0.1, "name": "mine", **CHUNKS}),
    (layers.WithQuality, {"head": ARCFACE, "weight": 2.0, "name": "mine"}),
    (
        layers.WithEmbeddingLoss,
        {
            "head": ARCFACE,
            "loss": losses.TripletLoss(0.3),
            "weight": 0.5,
            "features_before": "embedding",
            "name": "mine",
        },
    ),
    (layers.EmbeddingHead, {"loss": losses.TripletLoss(0.3), "name": "mine"}),
]


@pytest.mark.parametrize(("cls", "arguments"), OBJECTS, ids=[cls.__name__ for cls, _ in OBJECTS])
def test_object_survives_its_config(cls, arguments):
    check_config(cls, arguments)


NOT_SAVED = {RecognitionModel: {"teacher"}}


def heads_of(head):
    """Yields a head and the heads inside it."""
    yield head
    if isinstance(head, layers.AuxiliaryLossHead):
        yield from heads_of(head.head)


def test_every_argument_of_every_registered_class_is_checked():
    objects = keras.saving.get_custom_objects()  # docstring examples register classes of other packages
    registered = {cls for name, cls in objects.items() if name.startswith("keras_arcface>")}
    registered = {cls for cls in registered if cls.__module__.startswith("keras_arcface")}
    assert registered == {cls for cls, _ in OBJECTS}
    for cls in registered:
        checked = {name for other, arguments in OBJECTS if other is cls for name in arguments}
        assert parameters_of(cls).keys() - NOT_SAVED.get(cls, set()) <= checked, cls


def test_every_registered_head_is_checked_in_training():
    # WithDistillation has other labels: tests/layers/test_distillation.py has its checks.
    heads = {cls for cls, _ in OBJECTS if issubclass(cls, Head)} - {layers.WithDistillation}
    assert heads == {type(head) for make in HEADS.values() for head in heads_of(make(7))}
