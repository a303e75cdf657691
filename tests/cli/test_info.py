"""The command `keras-arcface info`."""

import importlib.metadata
import json

import keras
import pytest

from keras_arcface.cli.main import main


def test_prints_what_a_bug_report_needs(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["keras"] == keras.__version__
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert found["backends"]["keras backend"] == keras.backend.backend()
    assert any(device.startswith("CPU:0") for device in found["devices"]["tensorflow"])
    assert found["extras"]["plots"] == "installed"
    assert not {"all", "dev"} & {*found["extras"]}
    assert main(["info"]) == 0
    assert f"  numpy                   {found['packages']['numpy']}\n" in capsys.readouterr().out


def test_names_the_missing_packages_of_an_extra(capsys, monkeypatch):
    version = importlib.metadata.version

    def without_matplotlib(package):
        if package == "matplotlib":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", without_matplotlib)
    main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["extras"]["plots"] == "not installed: matplotlib"


@pytest.mark.parametrize("broken", ["requires", "metadata"])
def test_a_copy_that_is_not_installed_is_an_error(capsys, monkeypatch, broken):
    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, broken, absent)
    assert main(["info"]) == 1
    assert "No package metadata was found for keras-arcface" in capsys.readouterr().err


def test_a_broken_device_is_shown(capsys, monkeypatch):
    jax = pytest.importorskip("jax")

    def broken():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", broken)
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"]["jax"] == ["error: Unable to initialize backend 'cuda'"]
