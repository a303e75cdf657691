"""Builds the source distribution and the wheel, and makes clean environments. Only the standard library is used."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(output, python=sys.executable):
    """Builds the source distribution from the files of the repository, and the wheel from the source distribution.

    Args:
        output: directory for the two files.
        python: an interpreter with `build` and `setuptools`.

    Returns:
        The paths of the source distribution and of the wheel.
    """
    with tempfile.TemporaryDirectory() as copy:
        for name in repository_files():
            target = Path(copy, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        # Without isolation the build needs no network.
        command = [python, "-m", "build", "--no-isolation", "--outdir", str(output), copy]
        run(command, clean_variables(), copy)
    (source,), (wheel,) = Path(output).glob("*.tar.gz"), Path(output).glob("*.whl")
    return source, wheel


def repository_files():
    """Returns the files that git tracks or would add. Build outputs and runs are ignored by git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def requirements(*extras):
    """Returns the requirements of the package with extras, as lines of setup.cfg without references to other extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = lines(config["options"]["install_requires"])
    for extra in extras:
        for line in lines(config["options.extras_require"][extra]):
            reference = re.fullmatch(r"keras-arcface\[([\w,-]+)\]", line)
            found += requirements(*reference[1].split(",")) if reference else [line]
    return list(dict.fromkeys(found))


def lines(value):
    """Returns the lines of a value of setup.cfg without empty lines and comments."""
    return [line.strip() for line in value.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def clean_variables(**more):
    """Returns environment variables without those that could add packages, files or settings of this machine's user."""
    removed = ("PYTHON", "KERAS", "VIRTUAL_ENV", "COVERAGE", "COV_", "PYTEST", "JAX_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    return kept | {"PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1", "TF_CPP_MIN_LOG_LEVEL": "2"} | more


def run(command, variables, folder):
    """Runs a command and returns its standard output. Its complete output is part of the error if it fails."""
    done = subprocess.run([str(part) for part in command], env=variables, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout
