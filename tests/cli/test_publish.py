"""The command `keras-arcface publish`."""

import json
import logging

import pytest

from keras_arcface.serving.saved_model import export_check


@pytest.fixture
def model(tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "saved_model.pb").write_bytes(b"graph")
    return tmp_path / "exported"


@pytest.fixture
def base(tmp_path):
    return tmp_path / "models" / "faces"


@pytest.fixture
def run(run):
    """Runs a command whose text is only lines on the standard output, without a change of the package's logger."""

    def run_and_check_logger(*arguments):
        done = run("publish", *arguments)
        logger = logging.getLogger("keras_arcface")
        assert (logger.level, logger.handlers) == (logging.NOTSET, [])
        return done

    return run_and_check_logger


def test_publishes_lists_and_rolls_back(model, base, run):
    base.mkdir(parents=True)
    assert run("--list", base) == (0, "", "")
    for number in (1, 2):
        assert run(model, base, "--no-check") == (0, f"published {model} as {base}/{number}\n", "")
    done = run("--keep", 2, model, "--protect", 1, base, "--no-check")
    assert done == (0, f"published {model} as {base}/3\n", "")
    done = run(model, base, "--no-check", "--keep", 2, "--dry-run")
    expected = f"would publish {model} as {base}/4\nwould remove {base}/1\nwould remove {base}/2\n"
    assert done == (0, expected, "")
    expected = f"would withdraw {base}/3\nwould withdraw {base}/2\n{base}/1 would be the newest version\n"
    assert run("--rollback", base, "--to", 1, "--dry-run") == (0, expected, "")
    assert run("--list", base) == (0, "1\n2\n3\n", "")
    expected = f"withdrew {base}/3\nwithdrew {base}/2\n{base}/1 is the newest version\n"
    assert run("--rollback", base, "--to", 1) == (0, expected, "")
    assert run("--list", base) == (0, "1\n", "")
    error = f"error: {base} must contain at least two versions. Received: versions 1\n"
    assert run("--rollback", base) == (1, "", error)


def test_json(model, base, run):
    done = run(model, base, "--no-check", "--version", 7, "--json")
    assert json.loads(done.out) == {"newest": f"{base}/7", "dry_run": False}
    assert done.err == f"published {model} as {base}/7\n"
    assert json.loads(run("--list", base, "--json").out) == {"base": str(base), "versions": [7]}
    run(model, base, "--no-check")
    done = run("--rollback", base, "--dry-run", "--json")
    assert json.loads(done.out) == {"newest": f"{base}/7", "dry_run": True}


def test_the_model_is_checked(model, base, run, monkeypatch):
    def check(directory):
        raise ValueError("bad outputs")

    monkeypatch.setattr(export_check, "check_saved_model", check)
    error = f"error: {model} failed the check and is not published: bad outputs\n"
    assert run(model, base) == (1, "", error)
    assert not list(base.glob("[0-9]*"))


def test_usage_errors(model, base, run):
    base.mkdir(parents=True)
    for arguments, error in (
        ([model], "error: the following arguments are required: BASE"),
        ([], "error: the following arguments are required: SAVED_MODEL, BASE"),
        (["--rollback", base, model], "--rollback must not be combined with SAVED_MODEL. Received: "),
        (["--list", base, "--rollback", base], "not allowed with argument --list"),
        (["--list", base, "--keep", 3], "--keep requires SAVED_MODEL"),
        (["--rollback", base, "--no-check"], "--no-check requires SAVED_MODEL"),
        ([model, base, "--to", 3], "--to requires --rollback"),
    ):
        done = run(*arguments)
        assert (done.code, done.out, error in done.err) == (2, "", True), done.err


def test_missing_paths_are_named(model, base, run):
    for arguments in (["--list", base], ["--rollback", base], [base, model]):
        assert run(*arguments) == (1, "", f"error: No such file or directory: {base}\n")
