"""`save_preset` and `load` of its folder: the round trip, the model card, and damaged or hostile folders."""

import os
import re
import tomllib

import keras
import numpy as np
import pytest
import tiny_models

from keras_arcface import evaluation
from keras_arcface import pretrained
from keras_arcface.pretrained import loading
from keras_arcface.pretrained.model_card import model_card

IMAGES = np.random.default_rng(0).integers(0, 256, (4, *tiny_models.SHAPE), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _forget_licenses(monkeypatch):
    monkeypatch.setattr(loading, "_shown", set())


@pytest.fixture(scope="module")
def embedder():
    return tiny_models.make_small_embedder()


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    same = np.arange(600) % 2 == 0
    first, other = rng.normal(size=(2, 600, 16))
    pairs = np.stack([first, np.where(same[:, None], first + other, other)], axis=1)
    return evaluation.verify(pairs.reshape(1200, 16), same)


def test_round_trip(embedder, tmp_path, caplog):
    folder = tmp_path / "mine"
    pretrained.save_preset(embedder, folder, license="Apache-2.0", trained_on="own photos", alignment="five_points")
    assert sorted(os.listdir(folder)) == ["README.md", "embedder.keras", "preset.toml"]
    assert os.listdir(tmp_path) == ["mine"]
    loaded = pretrained.load(folder)
    assert np.array_equal(loaded(IMAGES), embedder(IMAGES))
    assert [record.message for record in caplog.records] == ["License of the weights of mine: Apache-2.0"]
    # The embedder alone is plain Keras.
    assert np.array_equal(keras.saving.load_model(folder / "embedder.keras")(IMAGES), embedder(IMAGES))
    table = tomllib.loads((folder / "preset.toml").read_text())
    assert table["network"] == embedder.layers[2].name  # the backbone
    assert (table["dim"], table["image_size"], table["trained_on"]) == (8, [8, 8], "own photos")
    # The folder can be moved.
    folder.rename(tmp_path / "other")
    assert pretrained.load(tmp_path / "other").output_shape == (None, 8)


def test_the_card_says_what_a_user_needs(embedder, result, tmp_path):
    pretrained.save_preset(
        *(embedder, tmp_path / "mine"),
        description="A small *test* network.",
        network="one convolution",
        trained_on="own | photos\nof two people",
        alignment="none",
        license="Own terms, see below",
        license_url="https://example.org",
        commercial_use=False,
        results={"own pairs": result},
        references=["https://example.org/paper"],
    )
    card = (tmp_path / "mine" / "README.md").read_text()
    interval = result.intervals()["accuracy"]
    point = result.at_far(0.01)
    for text in (
        '---\nlibrary_name: keras\ntags: [face-recognition, face-verification, keras_arcface]\nlicense: "other"\n'
        'license_name: "Own terms, see below"\n---\n\n# mine\n\nA small *test* network.\n',
        "| network | one convolution |",
        f"| weights | {embedder.count_params():,} |",
        "| input | RGB in 0..255, 8 x 8 pixels (height x width) |",
        "| alignment | none |",
        "| embedding | 8 numbers, not normalized; compare embeddings by their cosine |",
        "| trained on | own \\| photos of two people |",
        f"| own pairs | accuracy | {result.accuracy:.4f} | {interval[0]:.4f} to {interval[1]:.4f} | measured with "
        "mirror images added |",
        f"| own pairs | TAR@FAR=0.01 | {result.tar[0.01]:.4f} | ",
        f"| {point.threshold:.4f} | {point.far:.2g} | {point.far_interval[0]:.2g} to {point.far_interval[1]:.2g} | "
        f"{point.tar:.4f} | own pairs, measured with mirror images added |",
        "Own terms, see below (https://example.org). It does not allow commercial use.",
        "- https://example.org/paper",
    ):
        assert text in card
    assert "nan" not in card
    assert "FAR=0.001" not in card  # 300 impostor pairs
    table = tomllib.loads((tmp_path / "mine" / "preset.toml").read_text())
    assert table["figures"][0]["value"] == result.accuracy
    assert table["thresholds"][0]["threshold"] == point.threshold
    with pytest.raises(ValueError, match="does not allow commercial use: Own terms, see below"):
        pretrained.load(tmp_path / "mine")
    pretrained.load(tmp_path / "mine", accept_license=True)


def test_results_of_templates_and_of_several_sets(embedder, result, tmp_path):
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.permutation(200)[:2] for _ in range(600)])
    people = np.arange(200) // 4
    templates = evaluation.verify_templates(
        rng.normal(size=(50, 8))[people] + rng.normal(size=(200, 8)),
        np.arange(200),
        np.concatenate([pairs, np.arange(200).reshape(-1, 2)]),
        np.concatenate([people[pairs[:, 0]] == people[pairs[:, 1]], np.ones(100, bool)]),
        progress=False,
    )
    results = {"pairs": result, "templates": templates}
    pretrained.save_preset(embedder, tmp_path / "mine", results=results, mirrored=False)
    table = tomllib.loads((tmp_path / "mine" / "preset.toml").read_text())
    found = {(figure["benchmark"], figure["metric"]): figure for figure in table["figures"]}
    assert ("templates", "accuracy") not in found
    assert "interval" not in found["templates", "AUC"]
    assert found["templates", "AUC"]["value"] == templates.auc
    point = evaluation.Roc.from_rocs([result.roc, templates.roc]).at_far(0.01)
    assert table["thresholds"][0] == {
        "threshold": point.threshold,
        "far": point.far,
        "far_interval": list(point.far_interval),
        "tar": point.tar,
        "source": "pairs, templates, measured without mirror images",
    }


def test_the_cards_of_published_networks_state_their_figures():
    for preset in pretrained.presets().values():
        card = model_card(preset)
        assert preset.license.name in card
        assert all(
            f"| {figure.benchmark} | {figure.metric} | {figure.value:.4f} |" in card for figure in preset.figures
        )
    assert 'license: "apache-2.0"' in model_card(pretrained.presets()["sface"])
    assert "| 0.3630 |  |  |  | OpenCV" in model_card(pretrained.presets()["sface"])


def test_wrong_arguments_write_nothing(embedder, result, tmp_path):
    model = tiny_models.make_model()
    for arguments, message in (
        ({"embedder": model}, "of a RecognitionModel, pass model.embedder"),
        ({"embedder": keras.Sequential([keras.Input((None, None, 3))])}, "with known height and width"),
        ({"embedder": "embedder.keras"}, "embedder must map"),
        ({"alignment": "mtcnn"}, "alignment must be one of five_points, none"),
        ({"name": "a/b"}, "name must be a text without slashes"),
        ({"results": {"lfw": 0.99}}, "results['lfw']=0.99"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            pretrained.save_preset(**{"embedder": embedder, "folder": tmp_path / "mine", **arguments})
        assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    with pytest.raises(FileExistsError, match="folder must not exist, or be an empty folder"):
        pretrained.save_preset(embedder, tmp_path / "mine")
    (tmp_path / "mine" / "file").unlink()
    pretrained.save_preset(embedder, tmp_path / "mine")


def test_damaged_and_hostile_folders_are_refused(embedder, tmp_path):
    folder = tmp_path / "mine"
    pretrained.save_preset(embedder, folder)
    description, content = folder / "preset.toml", (folder / "embedder.keras").read_bytes()
    text = description.read_text()

    def refused(message):
        with pytest.raises((ValueError, OSError), match=re.escape(message)):
            pretrained.load(folder)

    with pytest.raises(ValueError, match="dropout cannot be given for a saved Keras model"):
        pretrained.load(folder, dropout=0.1)
    (folder / "embedder.keras").write_bytes(content[:-1])
    refused(f"{folder / 'embedder.keras'} must have the SHA-256 hash")
    (folder / "embedder.keras").unlink()
    refused("embedder.keras")
    os.mkfifo(folder / "embedder.keras")
    refused("embedder.keras must be a regular file. Received: a FIFO")
    (folder / "embedder.keras").unlink()
    (folder / "embedder.keras").write_bytes(content)
    for old, new, message in (
        ("embedder.keras", "../mine/embedder.keras", "files[0].name must be the name of a file, without a directory"),
        ("embedder.keras", "embedder.pth", "files must be one file with the suffix .keras. Received: embedder.pth"),
        ("dim = 8", "dim = 9", "must map (None, 8, 8, 3) to (None, 9)"),
        ("[[files]]", "[[fils]]", "has no field 'fils'. Did you mean files?"),
        ("dim = 8", "dim = ", "preset.toml is not a TOML file"),
    ):
        assert old in text
        description.write_text(text.replace(old, new))
        refused(message)
    description.write_text(text[: text.index("[[files]]")])
    refused("files must be one file with the suffix .keras. Received: none")
    description.unlink()
    os.mkfifo(description)
    refused("preset.toml must be a regular file. Received: a FIFO")


def test_code_in_a_keras_file_is_refused(tmp_path):
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Lambda(lambda x: x[:, :4])]
    keras.Sequential(layers).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"model.keras: expected a model that Keras can load. .*unsafe"):
        pretrained.load(tmp_path / "model.keras")


def test_the_embedder_of_a_recognition_model(tmp_path):
    model = tiny_models.make_model()
    model.save(tmp_path / "model.keras")
    loaded = pretrained.load(tmp_path / "model.keras")
    assert np.array_equal(loaded(IMAGES), model.embedder(IMAGES))
