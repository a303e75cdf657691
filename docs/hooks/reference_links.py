"""Hook of MkDocs: links code such as `data.load_dataset(...)` in the text of all pages to the API reference.

In the repository, the same text is plain code. A name with its package is always a link; a name alone only if it is
unambiguous and no common word.
"""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "keras_arcface"
# Code outside of links, headings and listings. Signatures of the API reference are inside of headings or listings.
_SKIPPED = re.compile(r"<(a|h[1-6]|pre|autoref)\b.*?</\1>|<code>([^<]+)</code>", re.DOTALL)
_NAME = re.compile(r"(?:keras_arcface\.)?([A-Za-z_][\w.]*)(?:\(.*\))?", re.DOTALL)


def public_names(package=PACKAGE):
    """Returns `{module: names in its __all__}` of the package and its public subpackages, without importing them."""
    names = {"keras_arcface": _all_of(package / "__init__.py")}
    for name in names["keras_arcface"]:
        file = package / name / "__init__.py"
        file = file if file.exists() else package / f"{name}.py"
        if file.exists():
            names[f"keras_arcface.{name}"] = _all_of(file)
    names["keras_arcface.data.augment"] = _all_of(package / "data" / "augment.py")
    names["keras_arcface.plan"] = _all_of(package / "plan" / "__init__.py")
    return names


def _all_of(file):
    """Returns `__all__` of a module, or the public functions and classes that a module without it defines."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return list(ast.literal_eval(node.value))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def _identifiers():
    """Returns `{name in a text: identifier}`, for example `{"data.PairSet": "keras_arcface.data.PairSet"}`."""
    qualified, alone = {}, {}
    for module, names in public_names().items():
        for name in names:
            identifier = f"{module}.{name}"
            qualified[identifier.removeprefix("keras_arcface.")] = identifier
            if module != "keras_arcface":
                alone.setdefault(name, set()).add(identifier)
    for name, identifiers in alone.items():
        if len(identifiers) == 1 and re.search("[A-Z_]", name):
            qualified.setdefault(name, *identifiers)
    return qualified


def on_config(config):
    global IDENTIFIERS
    IDENTIFIERS = _identifiers()
    return config


def on_page_content(html, page, config, files):
    def link(match):
        if match[2] is None or page.file.src_uri == "changelog.md":
            return match[0]
        name = _NAME.fullmatch(match[2])
        identifier = name and _identifier_of(name[1])
        if not identifier:
            return match[0]
        return f'<autoref identifier="{identifier}" optional>{match[0]}</autoref>'

    return _SKIPPED.sub(link, html)


def _identifier_of(name):
    if name in IDENTIFIERS:
        return IDENTIFIERS[name]
    owner, _, member = name.rpartition(".")  # a method, as in `PairSet.load`
    return f"{IDENTIFIERS[owner]}.{member}" if owner in IDENTIFIERS else None
