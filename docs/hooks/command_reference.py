"""Hook of MkDocs: writes the sections of commands.md from the parsers of the command, so that they are never outdated.

The line `<!-- commands -->` is replaced by the list of commands, and one section for each command.
"""

import argparse
import html
import os
import re
import sys
from pathlib import Path
from unittest import mock

MARK = "<!-- commands -->"
WIDTH = 80  # fits into a listing of a page on a desktop


def on_page_markdown(markdown, page, config, files):
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference():
    """Returns Markdown with all commands. Needs no package but keras_arcface itself, and does not import Keras."""
    with mock.patch.object(sys, "path", [str(Path(__file__).parents[2]), *sys.path]):
        from keras_arcface.cli.main import build_parser
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}):
        parser = build_parser()
        rows = [f"| [{name}](#{name}) | {summary} |" for name, summary, _ in _commands(parser)]
        sections = [_section(name, command, 2) for name, _, command in _commands(parser)]
    return "\n".join(["| command | what it does |", "|---|---|", *rows, "", *sections])


def _commands(parser):
    """Yields the name, the one-line help and the parser of every sub-command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield choice.dest, choice.help, action.choices[choice.dest]


def _section(name, parser, level):
    description = html.escape(parser.description or "", quote=False)
    description = re.sub(r"^( {4}.*\n?)+", _listing, description, flags=re.MULTILINE)
    full_help = parser.format_help()
    options = full_help.replace(f"{parser.description}\n\n", "") if parser.description else full_help
    lines = [f"{'#' * level} {name}", description, "```text", options.rstrip(), "```"]
    parts = [_section(f"{name} {part}", command, level + 1) for part, _, command in _commands(parser)]
    return "\n\n".join(["\n\n".join(lines[:2]), "\n".join(lines[2:]), *parts]) + "\n"


def _listing(match):
    lines = [line[4:] for line in html.unescape(match[0]).rstrip().splitlines()]
    return "\n".join(["```sh", *lines, "```\n"])
