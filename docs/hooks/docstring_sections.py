"""Extension of Griffe: adapts the docstrings of Keras' style to the sections that Griffe knows."""

import re
import textwrap

import griffe

# `Example:` is not a section of Griffe, and its contents would become quotations.
_RENAMED = {"Example:": "Examples:", "Call arguments:": "Args: Call arguments:"}
_REFERENCES = re.compile(r"^References?:\n((?:[ ]{4}.*\n?|\n)+)", re.MULTILINE)
# Examples between paragraphs of text, which are not in a section.
_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_OPTION = re.compile(r" *# doctest:.*")


class DocstringSections(griffe.Extension):
    """Renames sections of docstrings, and shows references as a list and all examples as listings."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is None:
            return
        text = "\n".join(_RENAMED.get(line, line) for line in obj.docstring.value.splitlines())
        text = _REFERENCES.sub(lambda match: f"**References**\n\n{textwrap.dedent(match[1])}", text)
        obj.docstring.value = _EXAMPLE.sub(lambda match: f"```pycon\n{_OPTION.sub('', match[0])}\n```", text)
