"""Runs every Python snippet of the README and of the documentation, and parses every command line in them.

The blocks of a page run in their order in one namespace, in a folder with small data. Networks are replaced by a small
one, `fit` stops after two steps, and addresses of servers lead to the test double. Exports, which take long, are made
once and copied, without the processes that check them. A block that cannot run is marked by the info string
`python no-test`; NOT_RUN has the reason.
"""

import contextlib
import importlib
import inspect
import pickle
import re
import shlex
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import encode
from conftest import make_face

import keras_arcface
from keras_arcface import ArcFace
from keras_arcface import backbones
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import faces
from keras_arcface import models
from keras_arcface import pretrained
from keras_arcface import serving
from keras_arcface._alignment import TEMPLATE
from keras_arcface.cli.main import COMMANDS
from keras_arcface.cli.main import build_parser
from keras_arcface.serving.saved_model import export_check

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text("utf-8")
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCK = re.compile(r"^```python( no-test)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = {name: BLOCK.findall(text) for name, text in PAGES.items() if BLOCK.search(text)}

# Blocks that are not run, and why.
NOT_RUN: dict[str, str] = {}

NETWORKS = ("MobileFaceNet", "IResNet18", "IResNet34", "IResNet50", "IResNet100", "IResNet200")
PEOPLE = 12
real_export, real_fit, real_client = (
    serving.export_saved_model,
    keras_arcface.RecognitionModel.fit,
    serving.FaceClient,
)


def small_network(*_, **__):
    """Returns a backbone for 112 x 112 images that is compiled and exported within seconds."""
    images = keras.Input((112, 112, 3), name="images")
    return keras.Model(images, keras.layers.Conv2D(8, 1, name="stage5_conv")(keras.layers.AveragePooling2D(16)(images)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder that is copied for every page."""
    folder = tmp_path_factory.mktemp("prepared")
    for person in range(PEOPLE):
        (folder / "faces" / f"person_{person}").mkdir(parents=True)
        for image in range(4):
            face = encode(make_face(person, image, (112, 112)), ".jpg")
            (folder / "faces" / f"person_{person}" / f"{image}.jpg").write_bytes(face)
    shutil.copytree(folder / "faces", folder / "photos")
    for person, name in enumerate(("first", "second")):
        shutil.copy(folder / "faces" / f"person_{person}" / "0.jpg", folder / f"{name}.jpg")
    shutil.copy(folder / "first.jpg", folder / "group.jpg")
    for name in ("faces_tfrecord", "ms1m_tfrecord"):
        data.write_dataset(data.ImageFolder(folder / "faces"), folder / name)
    write_pairs(folder / "lfw.bin")
    shutil.copy(folder / "lfw.bin", folder / "cfp_fp.bin")
    embedder = models.make_embedder(small_network(), dim=16)
    embedder.save(folder / "embedder.keras")
    evaluation.write_embeddings(
        data.TFRecords(folder / "faces_tfrecord"), folder / "faces_embeddings", embedder, "0" * 64
    )
    (folder / "runs" / "1").mkdir(parents=True)
    shutil.copy(folder / "embedder.keras", folder / "runs" / "1")
    pairs = data.PairSet.load(folder / "lfw.bin")
    result = evaluation.verify(evaluation.embed_pairs(embedder, pairs), pairs.same)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thresholds that few pairs decide
        options = {"mirror": True, "evaluation": result, "warmup_batch_sizes": [1], "check": False}
        real_export(embedder, folder / "exported", **options)
    return folder


def write_pairs(path):
    """Writes 10 folds of 10 genuine and 10 impostor pairs."""
    encoded = [[encode(make_face(person, image, (112, 112)), ".jpg") for image in range(4)] for person in range(PEOPLE)]
    images, same = [], []
    for pair in range(200):
        same.append(pair % 20 < 10)
        first = pair % PEOPLE
        second = first if same[-1] else (first + 1 + pair // 20) % PEOPLE
        images += [encoded[first][pair % 3], encoded[second][3]]
    path.write_bytes(pickle.dumps((images, same)))


@pytest.fixture(scope="module")
def double(prepared, tmp_path_factory):
    """A server with the export as version 3, `stable`."""
    server_double = pytest.importorskip("server_double")
    base = tmp_path_factory.mktemp("models")
    shutil.copytree(prepared / "exported", base / "faces" / "3")
    with server_double.ServerDouble(base, labels={"stable": 3}, latest=None) as double:
        yield double


@contextlib.contextmanager
def reduced(folder, double):
    """Replaces what would take hours, or needs a server."""

    def two_steps(model, *arguments, steps_per_epoch=None, initial_epoch=0, epochs=1, **options):
        steps = None if steps_per_epoch is None else min(2, steps_per_epoch)
        epochs = min(epochs, initial_epoch + 1)
        options = {**options, "verbose": 0}
        return real_fit(model, *arguments, steps_per_epoch=steps, initial_epoch=initial_epoch, epochs=epochs, **options)

    def copied_export(*arguments, **options):
        bound = inspect.signature(real_export).bind(*arguments, **options).arguments
        serving.check_exportable(bound["embedder"], bound["directory"])
        shutil.copytree(folder / "exported", bound["directory"], dirs_exist_ok=True)

    def client(address, **options):
        return real_client(double.rest if address.startswith("http") else double.grpc, **options)

    def load_insightface(path, color="RGB"):
        assert Path(path).suffix in (".pth", ".ckpt", ".onnx", ".safetensors")
        assert color in ("RGB", "BGR")
        return keras.saving.load_model(folder / "embedder.keras")

    def load_onnx(path):
        assert Path(path).suffix == ".onnx"
        return keras.saving.load_model(folder / "embedder.keras")

    def load(identifier, accept_license=False):
        assert identifier in pretrained.presets() or Path(identifier, "preset.toml").is_file()
        return keras.saving.load_model(folder / "embedder.keras")

    def detector(photo):
        """Finds one face, whose landmarks are those of the template."""
        return [faces.Face(np.array([0, 0, 112, 112], np.float32), TEMPLATE.astype(np.float32), 0.9)]

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few images, few pairs
        for name in NETWORKS:
            patch.setattr(backbones, name, small_network)
        patch.setattr(keras_arcface.RecognitionModel, "fit", two_steps)
        patch.setattr(serving, "export_saved_model", copied_export)
        patch.setattr(export_check, "check_saved_model", lambda *_, **__: None)  # starts two processes
        patch.setattr(serving, "FaceClient", client)
        patch.setattr(pretrained, "load_insightface", load_insightface)
        patch.setattr(pretrained, "load_onnx", load_onnx)
        patch.setattr(pretrained, "load", load)
        patch.setattr(faces, "YuNet", lambda: detector)
        yield


def names_of(folder):
    """Returns what every snippet can use: an embedder, a head, images and labels."""
    aligned = [make_face(person, image, (112, 112)) for image in range(4) for person in range(4)]
    return {
        "np": np,
        "keras": keras,
        "embedder": keras.saving.load_model(folder / "embedder.keras"),
        "images": np.stack(aligned),
        "labels": np.arange(16, dtype="int32") % 4,
        "num_classes": 4,
        "head": ArcFace(4),
    }


@pytest.mark.parametrize("page", BLOCKS)
def test_snippets_run(page, prepared, double, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names = names_of(tmp_path)
    with reduced(prepared, double):
        for number, (marked, code) in enumerate(BLOCKS[page]):
            if marked:
                assert f"{page}, block {number + 1}" in NOT_RUN
                continue
            exec(compile(code, f"{page}, block {number + 1}", "exec"), names)


def test_count():
    blocks = [(page, marked) for page, found in BLOCKS.items() for marked, _ in found]
    assert sum(bool(marked) for _, marked in blocks) == len(NOT_RUN)
    print(f"{len(blocks)} Python snippets on {len(BLOCKS)} pages, of which {len(NOT_RUN)} are not run")


def command_lines(text, indented_only=False):
    """Returns the lines of listings that call the command, joined with their continuation lines."""
    listings = re.sub(r"\\\n\s*", " ", text)
    prompt = r"[ ]{4}\s*" if indented_only else r"(?:[ ]{4}\s*)?(?:\$ )?"
    return re.findall(rf"^{prompt}(?:python -m keras_arcface|keras-arcface) (.*)$", listings, re.MULTILINE)


def command_docstrings():
    for name in COMMANDS:
        module = importlib.import_module(f"keras_arcface.cli.{name.replace('-', '_')}")
        yield f"keras-arcface {name} --help", module.__doc__


COMMAND_LINES = [(page, line) for page, text in PAGES.items() for line in command_lines(text)] + [
    (source, line) for source, text in command_docstrings() for line in command_lines(text, indented_only=True)
]


@pytest.mark.parametrize(("source", "line"), COMMAND_LINES, ids=lambda value: value[:60])
def test_command_lines_are_valid(source, line):
    words = shlex.split(line, comments=True)
    if words[-1] == "--help":
        return
    arguments = build_parser().parse(words)
    assert callable(arguments.run)


def test_programs_in_the_text_exist():
    programs = set()
    for page, text in PAGES.items():
        for program in re.findall(r"python ((?:benchmarks|tests|examples|export)/[\w/]+\.py)", text):
            assert (ROOT / program).is_file(), f"{page}: {program}"
            programs.add(program)
    print(f"{len(COMMAND_LINES)} command lines parsed; {len(programs)} programs in the text exist")
