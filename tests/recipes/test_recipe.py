"""Settings of recipes, and their TOML files."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies

from keras_arcface import recipes


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_of_the_package_says_what_it_is_and_how_to_use_it(name):
    recipe = recipes.get(name)
    assert recipe.summary.endswith(".")
    assert len(recipe.summary) <= 100
    command = "    keras-arcface demo" if name == "orl" else f"    keras-arcface train --recipe {name} --data "
    assert any(line.startswith(command) for line in recipe.description.splitlines())


@pytest.mark.parametrize("name", recipes.names())
def test_a_saved_recipe_is_equal(name, tmp_path):
    recipe = recipes.get(name, seed=3, no_decay=["gamma", "beta"])
    recipes.save(recipe, tmp_path / "recipe.toml")
    assert recipes.get(tmp_path / "recipe.toml") == recipe


@given(
    strategies.text(max_size=200),
    strategies.lists(strategies.text()),
    strategies.floats(min_value=1e-300, allow_infinity=False),
)
def test_any_text_and_number_survives_a_file(tmp_path_factory, description, no_decay, rate):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe = recipes.Recipe(description, no_decay=no_decay, learning_rate=rate)
    recipes.save(recipe, path)
    assert recipes.get(path) == recipe


def test_a_file_starts_from_other_recipes(tmp_path):
    (tmp_path / "one.toml").write_text('base = "ms1mv3_r50"\nbatch_size = 128\nlearning_rate = 0.02\n')
    (tmp_path / "two.toml").write_text('base = "one.toml"\nepochs = 3\nno_decay = ["gamma"]\n')
    recipe = recipes.get(tmp_path / "two.toml", seed=5)
    original = recipes.get("ms1mv3_r50")
    expected = {"batch_size": 128, "learning_rate": 0.02, "epochs": 3.0, "no_decay": ("gamma",), "seed": 5}
    assert recipe == dataclasses.replace(original, description="", **expected)


def test_a_file_without_a_base_starts_from_the_defaults(tmp_path):
    (tmp_path / "mine.toml").write_text('schedule = "step"\ndrops = [10, 16.5]\n')
    assert recipes.get(tmp_path / "mine.toml") == recipes.Recipe(schedule="step", drops=(10.0, 16.5))


def test_another_head_gets_the_margin_of_its_paper(tmp_path):
    assert recipes.get("small").margin == 0.4
    assert recipes.get("small", head="ArcFace").margin == 0.4
    assert recipes.get("small", head="CosFace").margin == 0.35
    assert recipes.get("small", head="SphereFace", margin=1.2).margin == 1.2
    assert recipes.get("small", head="CurricularFace").margin == 0.4  # both angles
    assert recipes.get("small").replace(head="SphereFace").replace(head="ArcFace").margin == 0.5
    assert recipes.get("adamw", head="ElasticFace").margin == 0.5
    (tmp_path / "mine.toml").write_text('base = "small"\nhead = "SphereFace"\n')
    assert recipes.get(tmp_path / "mine.toml").margin == 1.35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"marign": 0.3}, r"A recipe has no setting 'marign'. Did you mean margin\? Settings: backbone, "),
        ({"head": "Arcface"}, "head must be one of ArcFace, .* Received: head='Arcface'"),
        ({"epochs": "3"}, "epochs must be a number. Received: epochs='3'"),
        ({"epochs": True}, "epochs must be a number. Received: epochs=True"),
        ({"epochs": float("nan")}, "epochs must be finite. Received: epochs=nan"),
        ({"epochs": 10**400}, "epochs must be finite. Received: epochs=an integer of 1329 bits"),
        ({"seed": 10**30}, r"seed must be below 2\*\*31. Received: seed=1000000000000000000000000000000"),
        ({"batch_size": 64.0}, "batch_size must be an integer. Received: batch_size=64.0"),
        ({"batch_size": 0}, "batch_size must be at least 1. Received: batch_size=0"),
        ({"learning_rate": 0}, "learning_rate must be above 0. Received: learning_rate=0.0"),
        ({"dropout": 1.0}, "dropout must be below 1. Received: dropout=1.0"),
        ({"sample_rate": 2.0}, r"sample_rate must be in \(0, 1\]. Received: sample_rate=2.0"),
        ({"no_decay": "gamma,beta"}, "no_decay must be a list. Received: no_decay='gamma,beta'"),
        ({"no_decay": ["gamma", 1]}, r"no_decay\[1\] must be a text. Received: no_decay\[1\]=1"),
        ({"accumulate": 5}, "batch_size must be a multiple of accumulate. Received: batch_size=64, accumulate=5"),
        ({"drops": [3.0]}, r'drops and schedule="step" require each other. Received: schedule=cosine, drops=\[3.0\]'),
        ({"schedule": "step"}, r'drops and schedule="step" require each other. Received: schedule=step, drops=\[\]'),
        (
            {"stem_strides": 2, "backbone": "MobileFaceNet"},
            "stem_strides requires an IResNet. Received: stem_strides=2, backbone=MobileFaceNet",
        ),
        ({"last_stride": 1}, "last_stride requires ResNet50. Received: last_stride=1, backbone=IResNet18"),
        ({"last_stride": 3}, "last_stride must be 1 or 2. Received: last_stride=3"),
        ({"backbone_weights": "imagenet"}, "backbone_weights requires ResNet50. Received: backbone_weights='imagenet'"),
        ({"backbone": "ResNet50"}, "width must be 64 for ResNet50. Received: width=32"),
        ({"images_per_class": 5}, "images_per_class must divide .* images_per_class=5, 64 images per step"),
        ({"images_per_class": 32, "accumulate": 4}, "must divide .* images_per_class=32, 16 images per step"),
        ({"triplet": 1.0}, "triplet requires images_per_class of at least 2, .* triplet=1, images_per_class=0"),
        ({"triplet": 1.0, "images_per_class": 64}, "and several classes in a step. .* images_per_class=64, 64 images"),
        ({"neck": "GDC"}, "neck must be one of E, linear, BNNeck, LayerNorm. Received: neck='GDC'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        recipes.get("small", **settings)


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match=r"one of adamw, .* or the path of a .toml file. .*Did you mean ms1mv3_r50\?"):
        recipes.get("ms1mv3_r5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("margin = 0.5 0.6", "mine.toml is not a TOML file: Expected newline"),
        ("\udcff", "mine.toml is not a TOML file: 'utf-8' codec"),
        ("marign = 0.5", r"mine.toml: A recipe has no setting 'marign'. Did you mean margin\?"),
        ('base = "ms1mv3"', "mine.toml: The recipe must be one of .* Did you mean ms1mv3_r50?"),
        ("base = 3", "mine.toml: base must be the name or the path of a recipe. Received: base=3"),
        ('base = "mine.toml"', "mine.toml: the recipe must not start from itself"),
        ("drops = " + "[" * 20_000 + "]" * 20_000, "mine.toml is not a TOML file: maximum recursion depth exceeded"),
        ("[optimizer]\nname = 1", "mine.toml: optimizer must be a text. Received: optimizer={'name': 1}"),
    ],
)
def test_errors_name_the_file(text, message, tmp_path):
    (tmp_path / "mine.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        recipes.get(tmp_path / "mine.toml")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.toml"):
        recipes.get(tmp_path / "absent.toml")
    (tmp_path / "mine.toml").write_text('base = "absent.toml"')
    with pytest.raises(FileNotFoundError, match=r"absent\.toml"):
        recipes.get(tmp_path / "mine.toml")


def test_a_long_chain_of_recipes_is_refused(tmp_path):
    for number in range(1200):
        (tmp_path / f"{number}.toml").write_text(f'base = "{number + 1}.toml"')
    with pytest.raises(ValueError, match=r"0\.toml: .*20\.toml: a recipe must start from at most 20 others"):
        recipes.get(tmp_path / "0.toml")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "mine.toml")
    with pytest.raises(ValueError, match=r"mine\.toml must be a regular file. Received: a FIFO"):
        recipes.get(tmp_path / "mine.toml")
