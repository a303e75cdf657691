"""The scripts export/to_onnx.py, to_openvino.py and to_litert.py."""

import importlib
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface import data
from keras_arcface import serving
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder

EXPORT = Path(__file__).parents[3] / "export"
SCRIPTS = {
    "to_onnx": ("model.onnx", ("onnxruntime", "tf2onnx")),
    "to_openvino": ("model.xml", ("openvino", "nncf")),
    "to_litert": ("model.tflite", ("ai_edge_litert", "litert_quantizer")),
}


@pytest.fixture
def embedder(tmp_path):
    embedder = make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)
    embedder.save(tmp_path / "embedder.keras")
    return tmp_path / "embedder.keras"


@pytest.fixture
def pairs(tmp_path):
    """Writes twenty pairs, ten of them genuine."""
    images, same = [], []
    for person in range(20):
        images += [encode(make_face(person, 0)), encode(make_face(person if person % 2 else person + 100, 1))]
        same.append(person % 2 == 1)
    data.PairSet(images, np.array(same)).save(tmp_path / "pairs.npz")
    return tmp_path / "pairs.npz"


@pytest.fixture
def command(monkeypatch):
    """Returns a function that calls the shared module as the scripts do."""
    monkeypatch.syspath_prepend(str(EXPORT))
    module = importlib.import_module("command")

    def call(script, *arguments):
        runtime = importlib.import_module(f"keras_arcface.serving.convert.{script}")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        module.main(getattr(runtime, script.replace("to_", "export_")), runtime.PRECISIONS, script)

    yield call
    sys.modules.pop("command")


# The scripts share one command line, and the exports have their own tests: one script is enough by default.
@pytest.mark.parametrize(
    "script", ["to_onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("to_openvino", "to_litert"))]
)
def test_int8_with_its_loss(script, embedder, face_folder, pairs, command, tmp_path, capsys):
    name, modules = SCRIPTS[script]
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is absent")
    output = tmp_path / "out" / name
    options = ("--precision", "int8", "--calibration", face_folder, "--images", 8, "--mirror")
    command(script, embedder, output, *options, "--pairs", pairs, "--shuffle-seed", 0)
    lines = capsys.readouterr().out.splitlines()
    assert output.exists()
    assert f"{output}: images -> embedding, norm; int8" in "\n".join(lines)
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("embedder", "int8 "))}
    accuracies = {row: float(values[0].removesuffix("%")) for row, values in rows.items()}
    lost = float(lines[-1].split()[3])
    assert lines[-1] == f"The export loses {lost:.2f} points of accuracy."
    assert lost == pytest.approx(accuracies["embedder"] - accuracies["int8"], abs=0.011)
    assert abs(float(rows["embedder"][1]) - float(rows["int8"][1])) < 0.05  # AUC


def test_a_worse_export_loses_accuracy(embedder, pairs, command, tmp_path, capsys, monkeypatch):
    for module in SCRIPTS["to_onnx"][1]:
        pytest.importorskip(module, reason=f"{module} is absent")
    noise = np.random.default_rng(0)
    monkeypatch.setattr(serving, "load_embedder", lambda path: lambda images: noise.normal(size=(len(images), 4)))
    command("to_onnx", embedder, tmp_path / "model.onnx", "--pairs", pairs, "--shuffle-seed", 0)
    assert float(capsys.readouterr().out.splitlines()[-1].split()[3]) > 10


def test_sources_of_calibration_images(face_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPORT))
    module = importlib.import_module("command")
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "tfrecord")
    (tmp_path / "list.csv").write_text(f"{face_folder / 'person_0' / '0.png'},0\n")
    found = {
        "folders": module.open_source(face_folder),
        "folder": module.open_source(face_folder / "person_2"),
        "TFRecords": module.open_source(tmp_path / "tfrecord"),
        "list": module.open_source(tmp_path / "list.csv"),
    }
    assert {kind: len(source) for kind, source in found.items()} == {
        "folders": 12,
        "folder": 5,
        "TFRecords": 12,
        "list": 1,
    }
    image, _, name = found["folder"][0]
    assert (image, name) == ((face_folder / "person_2" / "0.png").read_bytes(), str(face_folder / "person_2" / "0.png"))
    sys.modules.pop("command")


def test_errors_are_printed_in_one_line(embedder, command, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
    with pytest.raises(
        SystemExit, match=r"error: calibration must be .* for precision='int8'.*Received: calibration=None"
    ):
        command("to_onnx", embedder, tmp_path / "model.onnx", "--precision", "int8")
    with pytest.raises(SystemExit, match=r"error: .*nothing.keras"):
        command("to_onnx", tmp_path / "nothing.keras", tmp_path / "model.onnx")
    (tmp_path / "has_no_images").mkdir()
    with pytest.raises(SystemExit, match=r"error: .*has_no_images"):
        command("to_onnx", embedder, tmp_path / "model.onnx", "--calibration", tmp_path / "has_no_images")


def test_a_script_runs_by_itself(embedder, tmp_path):
    for module in SCRIPTS["to_onnx"][1]:
        pytest.importorskip(module, reason=f"{module} is absent")
    script, output = str(EXPORT / "to_onnx.py"), tmp_path / "model.onnx"
    done = subprocess.run(
        [sys.executable, script, str(embedder), str(output)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output}: images -> embedding, norm; float32, checked against the embedder\n"
    assert keras.saving.load_model(embedder).input_shape == (None, 32, 32, 3)
    assert output.stat().st_size > 1000
