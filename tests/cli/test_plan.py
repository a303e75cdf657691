"""The command `keras-arcface plan`."""

import json

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
