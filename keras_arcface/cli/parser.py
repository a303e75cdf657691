"""The argument parser of the command and of its sub-commands."""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser with short errors that suggest the option a user may have meant."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.register("type", Path, _path)  # converts every argument with `type=Path`

    def add_subparsers(self, **options: Any) -> Any:
        return super().add_subparsers(action=_Commands, **options)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses arguments. Unlike `parse_args`, it reports unknown options as errors of the sub-command."""
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            parser = arguments.parser
            options = [option for action in parser._actions for option in action.option_strings]
            name = unknown[0].partition("=")[0]
            meant = difflib.get_close_matches(name, options, n=1)
            suggestion = f" Did you mean {meant[0]}?" if meant else ""
            if name in options:
                suggestion = f" Write {name} after the command: {parser.prog} {name}"
            parser.error(f"unrecognized arguments: {' '.join(unknown)}.{suggestion}")
        return arguments

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nFor the options, run: {self.prog} --help\n")


class Alternative(argparse.Action):
    """Option after which some other arguments are not required.

    Args:
        instead_of: names of the other arguments.
    """

    def __init__(self, *args: Any, instead_of: Sequence[str], **options: Any):
        super().__init__(*args, **options)
        self._instead_of = instead_of

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: Any) -> None:
        setattr(namespace, self.dest, self.const if self.nargs == 0 else value)
        for action in parser._actions:
            if action.dest in self._instead_of:
                action.required = False


class _Commands(argparse._SubParsersAction):
    def add_command(self, name: str, module: ModuleType) -> Parser:
        """Adds a sub-command that is a module with a docstring, `add_arguments` and `run`."""
        assert module.__doc__ is not None
        summary, _, _ = module.__doc__.partition("\n\n")
        parser = self.add_parser(name, help=summary.rstrip("."), description=module.__doc__.strip())
        parser.set_defaults(run=getattr(module, "run", None), parser=parser)
        if hasattr(module, "run"):  # the others have sub-commands, which have this option
            parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return parser


def _path(text: str) -> Path:
    """Converts a path. An empty text, as from an unset variable of the shell, would be the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path. Received an empty text")
    return Path(text)
