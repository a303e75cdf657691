"""Executes the examples of all docstrings. `keras`, `np` and the public names are imported for them."""

import doctest
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_arcface

PACKAGE = Path(keras_arcface.__file__).parent
FILES = sorted(file for file in PACKAGE.rglob("*.py") if ">>> " in file.read_text())
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_examples(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = file.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(names).removesuffix(".__init__"))
    globs = {"keras": keras, "np": np, "keras_arcface": keras_arcface}
    for part in ("data", "evaluation", "losses", "serving", "training", "margins", "layers"):
        public = getattr(keras_arcface, part)
        globs |= {name: getattr(public, name) for name in public.__all__}
    globs |= {name: getattr(keras_arcface, name) for name in keras_arcface.__all__}
    failed, _ = doctest.testmod(module, extraglobs=globs, optionflags=OPTIONS)
    assert failed == 0
