"""Executes the example in the docstring of `FaceClient` against the double. `test_doctests.py` has no server."""

import doctest
import inspect

import pytest
import small_models
from conftest import encode
from conftest import make_face
from server_double import ServerDouble

from keras_arcface.serving import FaceClient

ADDRESS, SKIP = "grpc://localhost:8500", "# doctest: +SKIP"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    (base / "faces").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_models, "DIM", 512)
        for version in (1, 2):
            small_models.write(small_models.Projection(version), base / "faces" / str(version))
    with ServerDouble(base, labels={"stable": 1}, latest=None) as double:
        yield double


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_example_of_the_client(protocol, served, tmp_path, monkeypatch):
    folder = tmp_path / "photos" / "ann"
    folder.mkdir(parents=True)
    for image in range(2):
        (folder / f"{image}.jpg").write_bytes(encode(make_face(0, image), ".jpg"))
    monkeypatch.chdir(tmp_path)
    text = inspect.cleandoc(FaceClient.__doc__)
    assert text.count(ADDRESS) == 1
    text = text.replace(ADDRESS, getattr(served, protocol)).replace(SKIP, "")
    example = doctest.DocTestParser().get_doctest(text, {"FaceClient": FaceClient}, "FaceClient", None, 0)
    results = doctest.DocTestRunner().run(example)
    assert results.failed == 0
    assert results.attempted == len(example.examples) >= 8
