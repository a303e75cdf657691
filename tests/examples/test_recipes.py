"""Compares the recipes with their sources: schedules in steps, head, dropout, clipping, and commands."""

import dataclasses
import inspect
import math
import shlex

import keras
import numpy as np
import pytest
import recipes
import train_ms1m
from recipes import RECIPES

from keras_arcface import training
from keras_arcface.margins import CombinedMargin

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
}


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def _small(monkeypatch):
    """Replaces every backbone by a single convolution."""

    def tiny(width, input_shape, stem_strides=1):
        return keras.Sequential([keras.Input(input_shape), keras.layers.Conv2D(4, 8, strides=8 * stem_strides)])

    for backbone in recipes.BACKBONES:
        monkeypatch.setattr(recipes.backbones, backbone, tiny)


def rate(optimizer, step):
    optimizer.iterations.assign(round(step))
    return float(optimizer.learning_rate)


@pytest.mark.parametrize(
    ("name", "steps", "drops"),
    [("casia_r50", 32_000, (20_000, 28_000)), ("ms1mv2_r100", 180_000, (100_000, 160_000))],
)
def test_schedule_matches_the_steps_of_the_paper(name, steps, drops):
    """ArcFace (arXiv 1801.07698), section 3.1."""
    recipe, examples = RECIPES[name], EXAMPLES[name]
    assert recipes.total_steps(recipe, examples) == pytest.approx(steps, rel=0.005)
    optimizer = recipes.make_optimizer(recipe, recipes.steps_per_epoch(recipe, examples))
    for at, before, after in zip(drops, (0.1, 0.01), (0.01, 0.001), strict=True):
        assert rate(optimizer, at * 0.995) == pytest.approx(before)
        assert rate(optimizer, at * 1.005) == pytest.approx(after)
    assert (optimizer.momentum, optimizer.coupled_weight_decay) == (0.9, 5e-4)
    assert (recipe.batch_size, recipe.dropout, recipe.margin, recipe.scale) == (512, 0.4, 0.5, 64.0)


def test_schedule_covers_the_whole_run(name):
    recipe, examples = RECIPES[name], EXAMPLES[name]
    steps = recipes.total_steps(recipe, examples)
    assert steps == math.ceil(recipe.epochs * (examples // recipe.batch_size))
    plain = dataclasses.replace(recipe, clip_norm=0.0)
    optimizer = recipes.make_optimizer(plain, recipes.steps_per_epoch(recipe, examples))
    warmup = recipe.warmup * steps / recipe.epochs
    assert rate(optimizer, warmup) == pytest.approx(recipe.learning_rate, rel=0.01)
    assert rate(optimizer, steps - 1) <= 0.011 * recipe.learning_rate
    if warmup:
        assert rate(optimizer, warmup / 2) == pytest.approx(recipe.learning_rate / 2, rel=0.02)


def test_schedule_counts_updates_with_accumulation():
    recipe = dataclasses.replace(RECIPES["small"], accumulate=4, epochs=60.0, warmup=6.0)
    assert recipes.total_steps(recipe, 4536) == 60 * (4536 // 16)
    optimizer = recipes.make_optimizer(recipe, recipes.steps_per_epoch(recipe, 4536) / 4)
    updates = recipes.total_steps(recipe, 4536) / 4
    assert rate(optimizer.inner_optimizer, updates / 10) == pytest.approx(0.1, rel=0.01)
    assert rate(optimizer.inner_optimizer, updates) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.usefixtures("_small")
def test_recipe_trains(name):
    """Uses the optimizer and head of the recipe, with a tiny network and dataset."""
    recipe = dataclasses.replace(RECIPES[name], batch_size=4, dim=8)
    model = recipes.build(recipe, 3, 12, (32, 32))
    before = {weight.path: np.array(weight) for weight in model.trainable_weights}
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    model.fit(images, np.arange(12) % 3, batch_size=4, shuffle=False, verbose=0)
    assert all(not np.array_equal(before[weight.path], weight) for weight in model.trainable_weights)
    dropped = [layer.rate for layer in model.embedder.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropped == [recipe.dropout]
    others = {"glint360k_r100": {"m3": 0.4}, "adamw": {"m3": 0.4}, "small": {"m2": 0.4}}
    expected = CombinedMargin(**others.get(name, {"m2": 0.5}))
    assert model.head.margin.get_config() == expected.get_config()
    limited = isinstance(model.optimizer, training.GradientAccumulationOptimizer)
    assert limited == bool(recipe.clip_norm)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("head", recipes.HEAD_NAMES)
def test_every_head_trains(head):
    margin = recipes.MARGINS.get(head, 0.5)
    recipe = dataclasses.replace(RECIPES["small"], head=head, margin=margin, batch_size=4, dim=8, warmup_margin=1.0)
    model = recipes.build(recipe, 3, 12, (32, 32))
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    history = model.fit(images, np.arange(12) % 3, batch_size=4, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    if head != "softmax":
        assert model.head.scale == recipe.scale
        assert np.isfinite(model.head.expected_first_loss(recipe.dim))
        assert int(model.head.steps) == 3


@pytest.mark.parametrize(
    ("options", "margin"),
    [("", 0.4), ("--head ArcFace", 0.4), ("--head CosFace", 0.35), ("--head SphereFace --margin 1.2", 1.2)],
)
def test_head_option_sets_the_default_margin(options, margin, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_ms1m.py", "--recipe", "small", "--data", "faces", *options.split()])
    assert train_ms1m.parse_arguments()[1].margin == margin


def test_command_in_the_description_selects_the_recipe(name, monkeypatch):
    text = inspect.cleandoc(RECIPES[name].description)
    command = next(line for line in text.splitlines() if line.startswith("python examples/train_ms1m.py"))
    monkeypatch.setattr("sys.argv", shlex.split(command)[1:])
    arguments, recipe = train_ms1m.parse_arguments()
    assert recipe == RECIPES[name]
    assert bool(arguments.verify) == (arguments.data is not None) == (name != "orl")


def test_augmentations_preserve_shape_and_dtype():
    images = np.zeros((2, *SHAPE), np.uint8)
    for augmentation in filter(None, recipes.AUGMENTATIONS.values()):
        augmented = augmentation(images, np.int32([0, 1]))
        assert (augmented.shape, augmented.dtype.name) == (images.shape, "uint8")
