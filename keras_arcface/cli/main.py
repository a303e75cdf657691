"""Parses the command line, runs a command, and turns errors into messages and exit codes."""

import contextlib
import importlib
import io
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras_arcface
from keras_arcface.cli.completion import SHELLS
from keras_arcface.cli.completion import PrintCompletion
from keras_arcface.cli.parser import Parser

# In the order in which a user meets them. The command `server-config` is the file server_config.py.
COMMANDS = (
    *("demo", "align", "compare", "enroll", "identify", "cluster", "convert", "check", "train", "embed", "evaluate"),
    *("overlap", "clean-labels", "export", "publish", "server-config", "ask", "serve-check", "presets", "plan"),
    "info",
)

# A command returns or raises these exit codes. Errors in the usage end with 2, as is usual.
FAILED, INTERRUPTED = 1, 130

# What a wrong path, file, value or environment can raise. Any other exception is a fault of the package.
USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        argv: the arguments after the name of the program, or None for those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # it is closed
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    is_debugging = False
    try:
        with _flushed_output():
            arguments = build_parser().parse(argv)
            arguments.command_line = shlex.join(["keras-arcface", *argv])
            is_debugging = arguments.debug
            _prepare_messages()
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return arguments.run(arguments) or 0
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        _discard_output()
        return FAILED
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or 'Stopped by Ctrl-C.'}", file=sys.stderr)
        return INTERRUPTED
    except USER_ERRORS as error:
        if is_debugging:
            traceback.print_exc()
        print(
            "\n".join([f"error: {str(error) or type(error).__name__}", *getattr(error, "__notes__", ())]),
            file=sys.stderr,
        )
        return FAILED
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError":  # of TensorFlow, which is not imported here
            print(f"error: out of memory. Use smaller batches.\n{error}", file=sys.stderr)
            return FAILED
        traceback.print_exc()
        print(
            "This is a fault of keras-arcface. Please report it with the output of `keras-arcface info`.",
            file=sys.stderr,
        )
        return FAILED


@contextlib.contextmanager
def _flushed_output() -> Iterator[None]:
    """Writes buffered output at the end. Python would report an error of it, such as a full disk, as "ignored"."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as on standard error, for file names that are not UTF-8
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
            raise


def _discard_output() -> None:
    """Discards buffered output that cannot be written. Otherwise, Python tries it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_messages() -> None:
    """Hides messages and progress bars that nobody reads, and prints the warnings of the log."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's startup messages
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # no progress bars in files
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)  # a command may print messages of lower levels itself
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[console])


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning like a message of the log, without the line of code that raised it."""
    print(f"WARNING: {message}", file=sys.stderr)


def build_parser() -> Parser:
    """Returns the parser of the whole command line."""
    parser = Parser(
        prog="keras-arcface",
        description="Trains, evaluates and serves embeddings of faces and other images with Keras.",
        epilog="Run `keras-arcface COMMAND --help` for the options of a command and an example.\n"
        'To complete commands and options in bash, add to ~/.bashrc: eval "$(keras-arcface --print-completion bash)"',
    )
    parser.add_argument("--version", action="version", version=f"keras-arcface {keras_arcface.__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="print the completion script of a shell",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"keras_arcface.cli.{name.replace('-', '_')}")
        module.add_arguments(commands.add_command(name, module))
    return parser
