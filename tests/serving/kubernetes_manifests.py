"""The manifests of examples/kubernetes, as objects, and the commands of their documentation."""

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "examples" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


def render(directory=MANIFESTS):
    """Returns `{kind: object}` of a kustomization, of whose features it knows those that the manifests use."""
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert kustomization.pop("generatorOptions") == {"disableNameSuffixHash": True}
    objects = [yaml.safe_load((directory / name).read_text()) for name in kustomization.pop("resources")]
    for generator in kustomization.pop("configMapGenerator"):
        data = {Path(file).name: (directory / file).read_text() for file in generator.pop("files")}
        metadata = {"name": generator.pop("name")}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
        assert not generator
    assert kustomization == {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    by_kind = {each["kind"]: each for each in objects}
    assert len(by_kind) == len(objects)
    return by_kind


def container_of(objects):
    """Returns the container of the server."""
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


def commands(start, end):
    """Returns the commands of the page between two texts, as lists of words."""
    between = PAGE[PAGE.index(start) : PAGE.index(end)]
    lines = re.findall(r"^ {4}(\S.*)$", re.sub(r"\\\n\s*", "", between), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]
