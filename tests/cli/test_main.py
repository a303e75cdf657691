"""What all commands have in common: help, errors and exit codes."""

import os
import shlex
import subprocess
import sys
import warnings

import pytest

from keras_arcface.cli import main as command
from keras_arcface.cli import plan


def leaves(parser, words=()):
    """Yields the words and the parser of every command that does something."""
    subparsers = [action for action in parser._actions if hasattr(action, "add_command")]
    if not subparsers:
        yield words, parser
    for action in subparsers:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))


LEAVES = dict(leaves(command.build_parser()))


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_help_has_an_example_that_parses(words):
    """The examples are those of the module's docstring, so a renamed option fails here."""
    parser = LEAVES[words]
    lines = parser.description.replace("\\\n", " ").splitlines()
    examples = [line for line in lines if line.startswith(" ".join(["    keras-arcface", *words]))]
    assert examples
    for example in examples:
        arguments = command.build_parser().parse(example.split()[1:])
        assert callable(arguments.run)
    assert parser.description.splitlines()[0].endswith(".")


@pytest.mark.parametrize("words", [(), *LEAVES], ids=" ".join)
def test_help_ends_well(words, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*words, "--help"])
    assert ended.value.code == 0
    assert f"usage: {' '.join(['keras-arcface', *words])}" in capsys.readouterr().out


def test_help_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys; from keras_arcface.cli import main; main.build_parser().format_help(); "
        "print(*{'keras', 'tensorflow', 'numpy', 'cv2'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "keras_arcface", "--version"], capture_output=True, text=True)
    assert done.stdout == "keras-arcface 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--classes", "10", "--devcies", "2"], "unrecognized arguments: --devcies 2. Did you mean --devices?"),
        (["plan", "--classes", "10", "stray"], "unrecognized arguments: stray."),
        (["--debug", "plan", "--classes", "10"], "unrecognized arguments: --debug. Write --debug after the command"),
        (["check", ""], "argument PATH: expected a path. Received an empty text"),
        (["publish", "--rollback", ""], "argument --rollback: expected a path. Received an empty text"),
        (["plan", "--classes", "ten"], "argument --classes: expected an integer"),
        (["plan", "--class", "10"], "the following arguments are required: --classes"),
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "argument COMMAND: invalid choice: 'trian'"),
    ],
)
def test_usage_errors_are_short(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.splitlines()[-1].startswith("For the options, run: keras-arcface")


@pytest.fixture
def failing(monkeypatch):
    """Makes `plan` raise an error."""

    def fail(error):
        def run(_):
            raise error

        monkeypatch.setattr(plan, "run", run)

    return fail


def run_plan(*options):
    return command.main(["plan", "--classes", "10", *options])


@pytest.mark.parametrize(
    "error", [ValueError("bad"), FileNotFoundError("bad"), ImportError("bad"), RuntimeError("bad")]
)
def test_a_mistake_of_the_user_shows_no_traceback(error, failing, capsys):
    error.add_note("a note")
    failing(error)
    assert run_plan() == 1
    assert capsys.readouterr().err == "error: bad\na note\n"
    assert run_plan("--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_package_shows_its_traceback(failing, capsys):
    failing(TypeError("bad"))
    assert run_plan() == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "keras-arcface info" in printed


def test_a_device_without_enough_memory_is_no_fault_of_the_package(failing, capsys):
    import tensorflow as tf

    failing(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"))
    assert run_plan() == 1
    assert capsys.readouterr().err == "error: out of memory. Use smaller batches.\nOOM when allocating tensor\n"


def test_ctrl_c_ends_with_130(failing, capsys):
    failing(KeyboardInterrupt())
    assert run_plan() == 130
    assert capsys.readouterr().err == "\nStopped by Ctrl-C.\n"


PLAN = ("plan", "--classes", "10")


def start(*arguments, **streams):
    """Starts a command in another process. Its output is buffered unless `PYTHONUNBUFFERED` is set."""
    code = "import sys; from keras_arcface.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **{"stderr": subprocess.PIPE, **streams})


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [PLAN, ("plan", "--help"), ("--print-completion", "bash")])
def test_a_closed_pipe_shows_no_message(arguments, buffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "" if buffered else "1")
    process = start(*arguments, stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    # argparse ignores errors of an unbuffered --help.
    assert process.wait(60) == (0 if "--help" in arguments and not buffered else 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="requires /dev/full")
@pytest.mark.parametrize("arguments", [PLAN, ("plan", "--help")])
def test_a_full_disk_is_an_error(arguments, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    with open("/dev/full", "wb") as full:
        process = start(*arguments, stdout=full)
    assert process.stderr.read() == b"error: [Errno 28] No space left on device\n"
    process.stderr.close()
    assert process.wait(60) == 1


@pytest.mark.parametrize(("descriptor", "printed"), [(1, b""), (2, b'{"estimates')])
def test_closed_streams_are_ignored(descriptor, printed):
    command = " ".join(map(shlex.quote, [sys.executable, "-m", "keras_arcface", *PLAN, "--json"]))
    done = subprocess.run(["sh", "-c", f"exec {command} {descriptor}>&-"], capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"".join(done.stdout.split()).startswith(printed)


def test_a_file_name_that_is_not_utf_8_is_printed(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    code = "import sys; from keras_arcface.cli import main, plan; plan.run = lambda _: print('caf\\udce9'); "
    code += "sys.exit(main.main(['plan', '--classes', '10']))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"caf\\udce9\n"


def test_an_error_without_a_message_shows_its_type(failing, capsys):
    failing(MemoryError())
    assert run_plan() == 1
    assert capsys.readouterr().err == "error: MemoryError\n"


def test_a_warning_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(plan, "run", lambda _: warnings.warn("careful", UserWarning, stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.showwarning
        assert run_plan() == 0
        assert warnings.showwarning is shown
    assert capsys.readouterr().err == "WARNING: careful\n"
