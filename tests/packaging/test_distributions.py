"""The files that are published: what they contain, how the page of PyPI is rendered, and whether they work."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from distributions import build
from distributions import repository_files


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("build", reason="distributions are built by build, which is absent")
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built):
    """A dictionary from the names of the wheel's files to their contents."""
    with zipfile.ZipFile(built[1]) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_contains_the_package_and_nothing_else(wheel):
    expected = {name for name in repository_files() if name.startswith("keras_arcface/")}
    found = {name for name in wheel if not name.startswith("keras_arcface-")}
    assert found == expected
    assert {"keras_arcface/py.typed", "keras_arcface/serving/saved_model/loaders/cpp.py"} <= found


def test_wheel_has_the_command_and_needs_only_python(wheel, built):
    (metadata,) = (name for name in wheel if name.endswith("entry_points.txt"))
    assert b"keras-arcface = keras_arcface.cli.main:main" in wheel[metadata]
    assert built[1].name.endswith("-py3-none-any.whl")


def test_source_distribution_contains_tests_and_documentation_without_data(built):
    with tarfile.open(built[0]) as archive:
        found = {member.name.partition("/")[2] for member in archive if member.isfile()}
    tracked = {name for name in repository_files() if not name.startswith((".ci/", ".git", ".pre-commit"))}
    assert tracked <= found, tracked - found
    generated = {name for name in found - tracked if not name.startswith("keras_arcface.egg-info/")}
    assert generated == {"PKG-INFO"}
    assert built[0].stat().st_size < 5 * 2**20


def test_page_of_pypi_is_complete(wheel, built):
    pytest.importorskip("twine", reason="the page is rendered by twine, which is absent")
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    (name,) = (name for name in wheel if name.endswith("/METADATA"))
    page = email.message_from_bytes(wheel[name])
    assert page["Summary"]
    assert page["Requires-Python"] == ">=3.11"
    versions = {text.rpartition(" ")[2] for text in page.get_all("Classifier") if " :: Python :: 3." in text}
    assert versions == {"3.11", "3.12", "3.13"}


@pytest.mark.slow
def test_wheel_works_in_a_clean_environment(tmp_path):
    """Requires a package index, and some 3 GB in the temporary folder."""
    script = Path(__file__).with_name("clean_environment.py")
    command = [sys.executable, script, "--extras", "demo,serving"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("passed\n")
    assert re.search(r"keras-arcface ask grpc://\S+", done.stdout)
