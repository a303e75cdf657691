"""The requirements in setup.cfg: every import of the package has one, and every error names an extra that helps."""

import ast
import configparser
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from distributions import ROOT
from distributions import lines
from distributions import requirements

import keras_arcface

PACKAGE = Path(keras_arcface.__file__).parent
# Distributions whose name differs from the module's.
DISTRIBUTIONS = {
    "apache_beam": "apache-beam",
    "ai_edge_litert": "ai-edge-litert",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "google_crc32c": "google-crc32c",
    "grpc": "grpcio",
    "litert_quantizer": "litert-quantizer",
    "pillow_heif": "pillow-heif",
    "sklearn": "scikit-learn",
    "tensorflow_serving": "tensorflow-serving-api",
    "tomli_w": "tomli-w",
    "yaml": "pyyaml",
}
# Every release of TensorFlow requires it. A second bound could only contradict the first.
OF_TENSORFLOW = {"google"}  # protobuf
# Modules beside the scripts of serving/saved_model/loaders, and the backends that Keras loads itself.
OTHER = {"npz_requests", "torch"}


@pytest.fixture(scope="module")
def extras():
    """A dictionary from extra to the names of all its distributions; "" is the package without extras."""
    listed = sections()
    core = {name_of(line) for line in requirements()}
    return {"": core} | {extra: {name_of(line) for line in requirements(extra)} - core for extra in listed}


def sections():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return {extra: lines(value) for extra, value in config["options.extras_require"].items()}


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


def calls(tree):
    """Yields the name, the extra and the modules of each call that refers to an extra."""
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for item in node.items:
                if called(item.context_expr) == "optional_import":
                    modules = [module for part in node.body for module in imported(part)]
                    yield "optional_import", item.context_expr.args[0], modules
        elif isinstance(node, ast.Call) and called(node) in ("require", "install_hint"):
            yield called(node), node.args[1], [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []


def called(node):
    if not isinstance(node, ast.Call):
        return None
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def distribution(module):
    return DISTRIBUTIONS.get(module, module).lower()


def test_errors_name_an_extra_that_contains_the_module(extras):
    found = Counter()
    for file in PACKAGE.rglob("*.py"):
        if file.name == "_optional.py":
            continue
        for function, extra, modules in calls(ast.parse(file.read_text())):
            if not isinstance(extra, ast.Constant):
                continue
            found[function] += 1
            assert extra.value in extras, f"{file}: {extra.value}"
            for module in set(modules) - {"keras_arcface"}:
                assert distribution(module) in extras[extra.value] | extras[""], f"{file}: {module}"
            assert extras[extra.value] <= extras["all"], f"{file}: {extra.value} is not in all"
    assert found["optional_import"] >= 10
    assert found["require"] >= 3
    assert found["install_hint"] >= 2


def test_every_import_of_the_package_has_a_requirement(extras):
    allowed = extras["all"] | extras["jax"] | extras[""]
    for file in PACKAGE.rglob("*.py"):
        modules = set(imported(ast.parse(file.read_text()))) - set(sys.stdlib_module_names) - OF_TENSORFLOW - OTHER
        missing = {module for module in modules - {"keras_arcface"} if distribution(module) not in allowed}
        assert not missing, file


def test_no_extra_repeats_a_requirement(extras):
    bounds = {}
    for extra, listed in sections().items():
        names = [name_of(line) for line in listed]
        assert len(set(names)) == len(names), extra
        for name, line in zip(names, listed, strict=True):
            if name != "keras-arcface" and extra != "cuda":
                assert bounds.setdefault(name, line) == line, f"{extra}: {line} and {bounds[name]}"
                assert name not in extras[""], f"{extra}: {line}"


def test_all_contains_everything_but_the_choices_and_the_tools_of_contributors(extras):
    for extra in extras.keys() - {"", "all", "cuda", "dev", "docs", "jax", "notebook"}:
        assert extras[extra] <= extras["all"], extra
    assert not extras["all"] & {"jax", "jupyterlab", "pytest", "mkdocs-material"}
    assert extras["all"] | extras["jax"] <= extras["dev"]
