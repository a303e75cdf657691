"""Runs the first example of the README twice, with a smaller network. `tests/test_snippets.py` runs it faster."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import encode
from conftest import make_face

# The full network takes minutes to compile and to export.
SMALLER_NETWORK = """
import functools
from keras_arcface import backbones
backbones.MobileFaceNet = functools.partial(backbones.MobileFaceNet, width=16, blocks=(1, 1, 1, 1))
"""


@pytest.mark.slow
def test_readme_code_runs(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "model.fit" in block)
    assert len([line for line in code.splitlines() if line and not line.startswith("from")]) <= 10
    for person in ("ada", "bob"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        for image in range(2):
            face = make_face(len(person) + ord(person[0]), image, size=(112, 112))
            (tmp_path / "faces" / person / f"{image}.jpg").write_bytes(encode(face, ".jpg"))
    assert code.count("epochs=20") == 1
    once = code.replace("epochs=20", "epochs=1")
    again = (  # training and export were tested by the first run
        "RecognitionModel.fit = lambda *_, **__: None\n"
        "serving.export_saved_model = lambda embedder, directory, **_: serving.check_exportable(embedder, directory)\n"
        f"{code}\nprint(serving.next_version('models/faces'), head.warmup_steps)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{SMALLER_NETWORK}\n{once}\n{again}"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "faces" / "1" / "saved_model.pb").is_file()
    assert done.stdout.splitlines()[-1] == f"{Path('models/faces/2')} 10"
    metadata = json.loads((tmp_path / "models" / "faces" / "1" / "assets.extra" / "metadata.json").read_text())
    assert (metadata["mirrored"], metadata["alignment"]) == (True, {"method": "not stated"})
