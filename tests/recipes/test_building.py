"""Compares the recipes with their sources: schedules in steps, head, dropout and clipping."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from small_resnet import small_resnet

from keras_arcface import backbones
from keras_arcface import layers
from keras_arcface import recipes
from keras_arcface import training
from keras_arcface.margins import CombinedMargin
from keras_arcface.recipes import recipe as settings

SHAPE = (16, 16, 3)
# Number of images in the dataset of each recipe.
EXAMPLES = {
    "orl": 300,
    "small": 4536,
    "casia_r50": 490_623,
    "ms1mv2_r100": 5_822_653,
    "ms1mv3_r50": 5_179_510,
    "ms1mv3_r100": 5_179_510,
    "glint360k_r100": 17_091_657,
    "mobilefacenet": 5_179_510,
    "adamw": 42_474_557,
    "distilled": 4536,
    "market_r50": 12_936,
    "cub_r50": 5864,
    "cars_r50": 8054,
    "sop_r50": 59_551,
    "sop_arcface_r50": 59_551,
    "in_shop_r50": 25_882,
}
SOFTMAX = {"market_r50", "cub_r50", "cars_r50", "sop_r50", "in_shop_r50"}


@pytest.fixture(params=recipes.names())
def name(request):
    return request.param


@pytest.fixture
def _small(monkeypatch):
    """Replaces every backbone by a single convolution."""

    def tiny(input_shape, width=64, stem_strides=1, last_stride=2, weights=None):
        return keras.Sequential([keras.Input(input_shape), keras.layers.Conv2D(4, 8, strides=8 * stem_strides)])

    for backbone in settings.BACKBONES:
        monkeypatch.setattr(backbones, backbone, tiny)


def rate(optimizer, step):
    optimizer.iterations.assign(round(step))
    return float(optimizer.learning_rate)


@pytest.mark.parametrize(
    ("name", "steps", "drops"),
    [("casia_r50", 32_000, (20_000, 28_000)), ("ms1mv2_r100", 180_000, (100_000, 160_000))],
)
def test_schedule_matches_the_steps_of_the_paper(name, steps, drops):
    """ArcFace (arXiv 1801.07698), section 3.1."""
    recipe, examples = recipes.get(name), EXAMPLES[name]
    assert recipe.total_steps(examples) == pytest.approx(steps, rel=0.005)
    optimizer = recipes.make_optimizer(recipe, examples)
    for at, before, after in zip(drops, (0.1, 0.01), (0.01, 0.001), strict=True):
        assert rate(optimizer, at * 0.995) == pytest.approx(before)
        assert rate(optimizer, at * 1.005) == pytest.approx(after)
    assert (optimizer.momentum, optimizer.coupled_weight_decay) == (0.9, 5e-4)
    assert (recipe.batch_size, recipe.dropout, recipe.margin, recipe.scale) == (512, 0.4, 0.5, 64.0)


def test_schedule_covers_the_whole_run(name):
    recipe, examples = recipes.get(name), EXAMPLES[name]
    steps = recipe.total_steps(examples)
    assert steps == math.ceil(recipe.epochs * (examples // recipe.batch_size))
    plain = dataclasses.replace(recipe, clip_norm=0.0)
    optimizer = recipes.make_optimizer(plain, examples)
    warmup = recipe.warmup * steps / recipe.epochs
    assert rate(optimizer, warmup) == pytest.approx(recipe.learning_rate, rel=0.01)
    last = 0.1 ** len(recipe.drops) if recipe.schedule == "step" else 0.01
    assert rate(optimizer, steps - 1) <= 1.1 * last * recipe.learning_rate
    if warmup:
        assert rate(optimizer, warmup / 2) == pytest.approx(recipe.learning_rate / 2, rel=0.02)


def test_schedule_counts_updates_with_accumulation():
    recipe = dataclasses.replace(recipes.get("small"), accumulate=4, epochs=60.0, warmup=6.0)
    assert recipe.total_steps(4536) == 60 * (4536 // 16)
    optimizer = recipes.make_optimizer(recipe, 4536)
    updates = recipe.total_steps(4536) / 4
    assert rate(optimizer.inner_optimizer, updates / 10) == pytest.approx(0.1, rel=0.01)
    assert rate(optimizer.inner_optimizer, updates) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.usefixtures("_small")
def test_recipe_trains(name):
    """Uses the optimizer and head of the recipe, with a tiny network and dataset."""
    recipe = dataclasses.replace(recipes.get(name), batch_size=4, dim=8, images_per_class=0, triplet=0.0)
    teacher = recipes.build(recipes.get("small", dim=6), 3, 12, (32, 32)).embedder if recipe.needs_teacher else None
    model = recipes.build(recipe, 3, 12, (32, 32), teacher)
    before = {weight.path: np.array(weight) for weight in model.trainable_weights}
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    model.fit(images, np.arange(12) % 3, batch_size=4, shuffle=False, verbose=0)
    assert all(not np.array_equal(before[weight.path], weight) for weight in model.trainable_weights)
    dropped = [layer.rate for layer in model.embedder.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropped == [recipe.dropout]
    others = {"glint360k_r100": {"m3": 0.4}, "adamw": {"m3": 0.4}, "small": {"m2": 0.4}, "distilled": {"m2": 0.4}}
    others |= {"sop_arcface_r50": {"m2": 0.15}}
    expected = CombinedMargin(**others.get(name, {"m2": 0.5}))
    head = model.head.head if recipe.needs_teacher else model.head
    assert name in SOFTMAX or head.margin.get_config() == expected.get_config()
    limited = isinstance(model.optimizer, training.GradientAccumulationOptimizer)
    assert limited == bool(recipe.clip_norm)


@pytest.mark.usefixtures("_small")
def test_the_recipe_of_re_identification_is_that_of_the_paper():
    """Bag of Tricks (arXiv 1903.07071), sections 2 and 3."""
    recipe = recipes.get("market_r50", dim=4)
    assert recipe.total_steps(EXAMPLES["market_r50"]) == 120 * 202
    model = recipes.build(recipe, 751, 12_936, (64, 32))
    head = model.head
    assert (head.weight, head.features_before, head.head.label_smoothing) == (1.0, "embedding", 0.1)
    assert isinstance(head.head, layers.SoftmaxProduct)
    loss = head.embedding_loss
    assert (loss.margin, loss.mining, loss.squared, loss.normalize) == (0.3, "hard", False, False)
    neck = model.embedder.get_layer("embedding")
    assert [type(neck).__name__, neck.scale, neck.center] == ["BatchNormalization", True, False]
    assert "neck_dense" not in [layer.name for layer in model.embedder.layers]  # dim is that of the features
    optimizer = model.optimizer
    assert (type(optimizer), optimizer.coupled_weight_decay) == (training.CoupledAdam, 5e-4)
    for epoch, expected in ((5, 1.75e-4), (10, 3.5e-4), (39.9, 3.5e-4), (40.1, 3.5e-5), (69.9, 3.5e-5), (70.1, 3.5e-6)):
        assert rate(optimizer, 202 * epoch) == pytest.approx(expected, rel=0.01)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("neck", ["E", "BNNeck"])
def test_triplets_of_a_recipe_train(neck):
    recipe = recipes.get("small", triplet=0.5, images_per_class=4, batch_size=12, dim=8, neck=neck, triplet_margin=0.2)
    model = recipes.build(recipe, 3, 12, (32, 32))
    loss = model.head.embedding_loss
    assert (model.head.weight, loss.margin, loss.squared) == (0.5, 0.2, False)
    assert (loss.normalize, model.head.features_before) == ((False, "embedding") if neck == "BNNeck" else (True, None))
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    history = model.fit(images, np.arange(12) % 3, batch_size=12, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    distilled = recipe.replace(distillation=1.0, teacher_images="augmented")
    teacher = recipes.build(recipes.get("small", dim=6), 3, 12, (32, 32)).embedder
    if neck == "BNNeck":
        with pytest.raises(ValueError, match="head must be a head without distillation and features_before"):
            recipes.build(distilled, 3, 12, (32, 32), teacher)
    else:
        head = recipes.build(distilled, 3, 12, (32, 32), teacher).head
        assert isinstance(head.head, layers.WithEmbeddingLoss)


def test_the_backbone_has_the_stride_and_the_weights_of_the_recipe(monkeypatch):
    monkeypatch.setattr(keras.applications, "ResNet50", small_resnet)
    for stride, rows in ((1, 16), (2, 8)):
        options = {"last_stride": stride, "dim": 6, "backbone_weights": ""}
        embedder = recipes.build(recipes.get("market_r50", **options), 3, 12, (64, 32)).embedder
        assert embedder.get_layer("resnet50").output_shape[1] == rows
    kernels = []
    for weights in ("imagenet", "imagenet", ""):
        model = recipes.build(recipes.get("market_r50", dim=6, backbone_weights=weights), 3, 12, (64, 32))
        kernels.append(np.array(model.embedder.get_layer("resnet50").get_layer("resnet50").get_weights()[0]))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()
    with pytest.raises(FileNotFoundError, match=r"Received: weights='absent.h5', which does not exist"):
        recipes.build(recipes.get("cub_r50", backbone_weights="absent.h5"), 3, 12, (64, 64))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("head", settings.HEADS)
def test_every_head_trains(head):
    margin = settings.MARGINS.get(head, 0.5)
    recipe = dataclasses.replace(recipes.get("small"), head=head, margin=margin, batch_size=4, dim=8, warmup_margin=1.0)
    model = recipes.build(recipe, 3, 12, (32, 32))
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    history = model.fit(images, np.arange(12) % 3, batch_size=4, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    if head != "softmax":
        assert model.head.scale == recipe.scale
        assert np.isfinite(model.head.expected_first_loss(recipe.dim))
        assert int(model.head.steps) == 3


@pytest.mark.usefixtures("_small")
def test_a_recipe_with_distillation_requires_its_teacher():
    recipe = recipes.get("distilled")
    for changes, missing in (({}, "teacher"), ({"teacher_images": "original"}, "teacher_embeddings")):
        with pytest.raises(ValueError, match=f"^{missing} must be given for a recipe with distillation=32"):
            recipes.build(recipe.replace(**changes), 3, 12, (32, 32))
    with pytest.raises(ValueError, match=r"^teacher_embeddings must be given .* teacher_centers=start. Received: "):
        recipes.build(recipes.get("small", teacher_centers="start"), 3, 12, (32, 32))
    with pytest.raises(ValueError, match=r"^teacher must be None for a recipe with distillation=0"):
        recipes.build(recipes.get("small"), 3, 12, (32, 32), teacher=keras.Sequential())


def test_augmentations_preserve_shape_and_dtype():
    images = np.zeros((2, *SHAPE), np.uint8)
    for name in settings.AUGMENTATIONS:
        augmentation = recipes.make_augmentation(recipes.Recipe(augmentation=name))
        assert (augmentation is None) == (name == "none")
        if augmentation is None:
            continue
        augmented = augmentation(images, np.int32([0, 1]))
        assert (augmented.shape, augmented.dtype.name) == (images.shape, "uint8")


def test_the_backbones_of_recipes_are_those_whose_width_is_a_number_of_channels():
    others = {"IResNet", "MobileNetV1"}  # the first requires blocks, the second is there for SFace
    others |= {name for name in backbones.__all__ if name.startswith(("EdgeFace", "GhostFaceNet", "ViT"))}
    assert set(settings.BACKBONES) == set(backbones.__all__) - others
