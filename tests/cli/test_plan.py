"""The command `keras-arcface plan`."""

import json

import pytest

from keras_arcface.cli.main import main

SETUP = ("plan", "--classes", "10e6", "--batch-size", "1024", "--devices", "8")


def test_marks_what_fits(capsys):
    assert main([*SETUP, "--gpu-memory", "32G"]) == 0
    printed = capsys.readouterr().out
    assert "10,000,000 classes, 512 dimensions, batch 1,024 on 8 devices" in printed
    assert next(line for line in printed.splitlines() if line.startswith("full logits ")).endswith("does not fit")
    assert "Fastest that fits: chunked, sampled (0.1), class parallel" in printed


def test_json_holds_the_same_estimates(capsys):
    assert main([*SETUP, "--gpu-memory", "32G", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fastest_that_fits"] == "chunked, sampled (0.1), class parallel"
    assert found["estimates"][0]["name"] == "full logits"
    assert found["estimates"][0]["memory"] > 32 * 2**30 > found["estimates"][-1]["memory"]


def test_a_wrong_value_is_named(capsys):
    assert main([*SETUP, "--sample-rate", "2"]) == 1
    assert capsys.readouterr().err == "error: sample_rate must be in (0, 1]. Received: sample_rate=2.0\n"


def test_images(capsys):
    setup = ("plan", "--images", "1e9", "--people", "1e8", "--cores", "32", "--memory", "128G", "--embed-rate", "25")
    assert main([*setup]) == 0
    printed = capsys.readouterr().out
    assert "1,000,000,000 images, 512 dimensions; machines with 32 cores and 128 GiB, and 24 hours:" in printed
    assert next(line for line in printed.splitlines() if line.startswith("Gallery, float32")).endswith("does not fit")
    assert "weights" not in printed
    assert main([*setup, "--json", "--hours", "12"]) == 0
    found = json.loads(capsys.readouterr().out)
    embed = found["stages"][1]
    assert (embed["name"], embed["machines"]) == ("embed, float32", 29)  # 11,111 core hours, 384 of a machine
    assert embed["core_hours"] == 1e9 / 25 / 3600
    assert found["searches"][2]["machines"] == 23  # 1.1e9 vectors of 2785 bytes
    assert "estimates" not in found


def test_classes_and_images(capsys):
    assert main([*SETUP, "--images", "1e6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"estimates", "fastest_that_fits", "stages", "searches"}
    with pytest.raises(SystemExit):
        main(["plan", "--dim", "128"])
    assert "the following arguments are required: --classes" in capsys.readouterr().err
