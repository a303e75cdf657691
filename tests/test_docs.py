"""The pages of the documentation site: every public name is in the API reference."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import keras_arcface

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
ENTRIES = re.findall(r"^::: ([\w.]+)$", REFERENCE, re.MULTILINE)


def load_hook(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


PUBLIC_NAMES = load_hook("reference_links").public_names()


@pytest.mark.parametrize("module", PUBLIC_NAMES)
def test_every_public_name_is_in_the_reference(module):
    expected = set(PUBLIC_NAMES[module]) - {"augment"}
    if hasattr(importlib.import_module(module), "__all__"):
        assert set(PUBLIC_NAMES[module]) == set(importlib.import_module(module).__all__)
    if module == "keras_arcface":
        page = (DOCS / "reference" / "keras_arcface.md").read_text()
        missing = {name for name in expected if not re.search(rf"`(keras_arcface\.)?{name}`", page)}
    else:
        missing = expected - {entry.rpartition(".")[2] for entry in ENTRIES if entry.rpartition(".")[0] == module}
    assert not missing


def test_short_names_are_documented_under_their_full_name():
    for name in keras_arcface.__all__:
        value = getattr(keras_arcface, name)
        if isinstance(value, type):
            owners = [entry.rpartition(".") for entry in ENTRIES if entry.endswith(f".{name}")]
            assert any(getattr(importlib.import_module(module), name) is value for module, _, _ in owners), name


def test_every_entry_exists_once():
    assert len(ENTRIES) == len(set(ENTRIES))
    for entry in ENTRIES:
        module, _, name = entry.rpartition(".")
        assert hasattr(importlib.import_module(module), name), entry
    print(f"{len(ENTRIES)} entries in the API reference, of {len(PUBLIC_NAMES)} modules")


def test_relative_links_lead_to_files_and_headings():
    root, count = DOCS.parent, 0
    for page in (*root.glob("*.md"), *DOCS.rglob("*.md")):
        text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = page if not path else (page.parent / path).resolve()
            assert file.exists(), f"{page}: {target}"
            if anchor and file.suffix == ".md" and not anchor.startswith("keras_arcface."):
                assert anchor in headings_of(file), f"{page}: {target}"
            count += 1
    print(f"{count} relative links")


def headings_of(file):
    """Returns the anchors of the headings of a page, as GitHub and MkDocs make them for plain headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
