"""The scripts under examples/ and export/ that run a command of `keras-arcface`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "examples/make_tfrecords.py": "convert",
    "examples/make_tfrecords.py --check": "check",
    "examples/evaluate.py": "evaluate",
    "examples/clean_labels.py": "clean-labels",
    "export/to_saved_model.py": "export saved-model",
    "export/to_onnx.py": "export onnx",
    "export/to_openvino.py": "export openvino",
    "export/to_litert.py": "export litert",
    "export/publish.py": "publish",
    "export/server_config.py": "server-config",
    "examples/serve_client.py": "ask",
}


@pytest.mark.parametrize("script", COMMANDS)
def test_a_script_runs_its_command(script):
    path, *options = script.split()
    command = [sys.executable, str(ROOT / path), *options, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: keras-arcface {COMMANDS[script]} ")
    options = ["keras-arcface", *COMMANDS[script].split()]
    assert " ".join(options) in (ROOT / path).read_text().split('"""')[1]


@pytest.mark.parametrize("script", sorted({script.split()[0] for script in COMMANDS}))
def test_a_script_ends_with_the_exit_code_of_the_command(script):
    done = subprocess.run([sys.executable, str(ROOT / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: " in done.stderr
