"""Runs every Python snippet of the README and of the documentation, and parses every command line in them.

The blocks of a page run in their order in one namespace, in a folder with small data. Networks are replaced by small
ones, `fit` stops after two steps, and addresses of servers lead to the test double. Exports, which take long, are made
once and copied. A block that cannot run is marked by the info string `python no-test`; NOT_RUN has the reason.
"""

import contextlib
import functools
import pickle
import re
import shlex
import shutil
import types
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
from keras_arcface import models
from keras_arcface import pretrained
from keras_arcface import serving
from keras_arcface.cli.main import COMMANDS
from keras_arcface.cli.main import build_parser

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text("utf-8")
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCK = re.compile(r"^```python( no-test)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = {name: BLOCK.findall(text) for name, text in PAGES.items() if BLOCK.search(text)}

# Blocks that are not run, and why.
NOT_RUN: dict[str, str] = {}

SMALL = {"width": 8, "input_shape": (112, 112, 3)}
SMALL_NETWORKS = {
    "MobileFaceNet": functools.partial(backbones.MobileFaceNet, blocks=(1, 1, 1, 1), **SMALL),
    **{
        name: functools.partial(backbones.IResNet, (1, 1, 1, 1), **SMALL)
        for name in ("IResNet18", "IResNet34", "IResNet50", "IResNet100", "IResNet200")
    },
}
PEOPLE = 12
real_export, real_fit, real_client = (
    serving.export_saved_model,
    keras_arcface.RecognitionModel.fit,
    serving.FaceClient,
)


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
    for name in ("faces_tfrecord", "ms1m_tfrecord"):
        data.write_dataset(data.ImageFolder(folder / "faces"), folder / name)
    write_pairs(folder / "lfw.bin")
    shutil.copy(folder / "lfw.bin", folder / "cfp_fp.bin")
    embedder = models.make_embedder(SMALL_NETWORKS["IResNet18"](), dim=16)
    embedder.save(folder / "embedder.keras")
    (folder / "runs" / "1").mkdir(parents=True)
    shutil.copy(folder / "embedder.keras", folder / "runs" / "1")
    pairs = data.PairSet.load(folder / "lfw.bin")
    result = evaluation.verify(evaluation.embed_pairs(embedder, pairs), pairs.same)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thresholds that few pairs decide
        real_export(embedder, folder / "exported", mirror=True, evaluation=result, warmup_batch_sizes=[1])
    return folder


def write_pairs(path):
    """Writes 10 folds of 20 genuine and 20 impostor pairs."""
    images, same = [], []
    for pair in range(400):
        is_same = pair % 40 < 20
        persons = (pair % PEOPLE, pair % PEOPLE if is_same else (pair + 1 + pair // 40) % PEOPLE)
        images += [encode(make_face(person, 10 * side + pair % 7, (112, 112)), ".jpg") for side, person in enumerate(persons)]
        same.append(persons[0] == persons[1])
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
        return real_fit(
            model, *arguments, steps_per_epoch=steps, initial_epoch=initial_epoch, epochs=epochs, **options
        )

    def copied_export(embedder, directory, **options):
        if not Path(directory).is_absolute() and "/models/" in f"/{directory}":
            Path(directory).parent.mkdir(parents=True, exist_ok=True)
        serving.check_exportable(embedder, directory)
        types.SimpleNamespace(**options)
        shutil.copytree(folder / "exported", directory, dirs_exist_ok=True)
        return Path(directory)

    def client(address, **options):
        return real_client(double.rest if address.startswith("http") else double.grpc, **options)

    def load_insightface(path):
        assert Path(path).suffix in (".pth", ".onnx", ".safetensors")
        return keras.saving.load_model(folder / "embedder.keras")

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few images, few pairs
        for name, network in SMALL_NETWORKS.items():
            patch.setattr(backbones, name, lambda *_, _network=network, **options: _network())
        patch.setattr(keras_arcface.RecognitionModel, "fit", two_steps)
        patch.setattr(serving, "export_saved_model", copied_export)
        patch.setattr(serving, "FaceClient", client)
        patch.setattr(pretrained, "load_insightface", load_insightface)
        yield patch


def names_of(folder):
    """Returns what every snippet can use: an embedder, images and labels."""
    faces = [make_face(person, image, (112, 112)) for image in range(4) for person in range(4)]
    return {
        "np": np,
        "keras": keras,
        "embedder": keras.saving.load_model(folder / "embedder.keras"),
        "images": np.stack(faces),
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
    import importlib

    for name in COMMANDS:
        module = importlib.import_module(f"keras_arcface.cli.{name.replace('-', '_')}")
        yield f"keras-arcface {name} --help", module.__doc__


COMMAND_LINES = [(page, line) for page, text in PAGES.items() for line in command_lines(text)] + [
    (source, line) for source, text in command_docstrings() for line in command_lines(text, indented_only=True)
]


@pytest.mark.parametrize(("source", "line"), COMMAND_LINES, ids=lambda value: value[:60])
def test_command_lines_are_valid(source, line):
    if shlex.split(line)[-1] == "--help":
        return
    arguments = build_parser().parse(shlex.split(line, comments=True))
    assert callable(arguments.run)


def test_programs_in_the_text_exist():
    programs = set()
    for page, text in PAGES.items():
        for program in re.findall(r"python ((?:benchmarks|tests|examples|export)/[\w/]+\.py)", text):
            assert (ROOT / program).is_file(), f"{page}: {program}"
            programs.add(program)
    print(f"{len(COMMAND_LINES)} command lines parsed; {len(programs)} programs in the text exist")
