"""The links of a release: PyPI shows README.md without the repository around it."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from distributions import ROOT

import keras_arcface

TAG = f"v{keras_arcface.__version__}"
PACKAGE = "keras_arcface/__init__.py"


@pytest.fixture
def release(tmp_path):
    """A function that prepares a copy of the repository, and the folder of the copy."""
    for name in (".github/prepare_release.py", "README.md", "setup.cfg", PACKAGE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)

    def prepare(tag=TAG):
        variables = os.environ | {"GITHUB_REPOSITORY": "Owner/name", "GITHUB_REF_NAME": tag}
        variables.pop("GITHUB_SERVER_URL", None)
        script = tmp_path / ".github" / "prepare_release.py"
        return subprocess.run([sys.executable, script], env=variables, capture_output=True, text=True)

    return prepare, tmp_path


def test_every_relative_link_leads_to_a_file_of_the_tag(release):
    prepare, folder = release
    relative = targets((ROOT / "README.md").read_text())
    assert any(Path(target).suffix == ".png" for target in relative), "The README has no picture to test with"
    assert prepare().returncode == 0
    readme = (folder / "README.md").read_text()
    assert not targets(readme)
    for target in relative:
        assert (ROOT / target.partition("#")[0]).exists(), target
        kind = "raw" if target.endswith((".png", ".jpg", ".svg", ".gif")) else "blob"
        assert f"https://github.com/Owner/name/{kind}/{TAG}/{target}" in readme


def targets(readme):
    """Returns the relative links and images of Markdown or HTML in a text."""
    found = re.findall(r"\]\(([^)]+)\)", readme) + re.findall(r'(?:src|href)="([^"]+)"', readme)
    return [target for target in found if not target.startswith(("https://", "http://", "#"))]


def test_html_links_and_links_within_the_page(release):
    prepare, folder = release
    text = '<img src="docs/a.svg"> <a href="docs/a.md">a</a> [here](#there) [away](https://a.org/b.png)\n'
    (folder / "README.md").write_text(text)
    prepare()
    address = "https://github.com/Owner/name"
    expected = text.replace("docs/a.svg", f"{address}/raw/{TAG}/docs/a.svg")
    assert (folder / "README.md").read_text() == expected.replace("docs/a.md", f"{address}/blob/{TAG}/docs/a.md")


def test_metadata_have_the_addresses_and_are_otherwise_unchanged(release):
    prepare, folder = release
    prepare()
    before, after = configparser.ConfigParser(), configparser.ConfigParser()
    before.read(ROOT / "setup.cfg")
    after.read(folder / "setup.cfg")
    urls = dict(line.split(" = ") for line in after["metadata"].pop("project_urls").strip().splitlines())
    assert urls["Source"] == "https://github.com/Owner/name"
    assert urls["Documentation"] == "https://owner.github.io/name/"
    assert after == before


def test_a_tag_of_another_version_is_refused(release):
    prepare, folder = release
    done = prepare("v9.0.0")
    assert done.returncode == 1
    assert f"must be {TAG}" in done.stderr
    assert "v9.0.0" in done.stderr
    assert (folder / "README.md").read_text() == (ROOT / "README.md").read_text()
