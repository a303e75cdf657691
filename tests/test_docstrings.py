"""Checks that the docstrings of all public names are complete. `pytest -rP` prints how many are.

The docstring of a public function or class has a summary and these Google sections, which the API reference renders:

    Args        every parameter of the function or of `__init__`, one per entry, also `**kwargs`
    Attributes  may replace Args for a dataclass or named tuple whose objects are only read
    Returns     or Yields, unless the function returns None; not for classes
    Raises      the exceptions and their cause; not for a class with Attributes instead of Args
    Examples    with `>>>`; `tests/test_doctests.py` executes them. (`Example` would be rendered as plain text.)

Public methods and properties have at least a summary, unless they override those of Keras or the standard library.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import types

import pytest

import keras_arcface

# The packages in front own names that others export again.
PACKAGES = [name for name in keras_arcface.__all__ if inspect.ismodule(getattr(keras_arcface, name))]
PACKAGES = [*sorted({*PACKAGES, "data.augment", "plan"}), ""]

# Packages whose docstrings are not complete yet.
INCOMPLETE: set[str] = set()

# Sections that a name does not need, with the reason.
EXCEPTIONS: dict[str, set[str]] = {
    # Listings that are not executed, because the networks take seconds to build.
    "backbones.IResNet200": {"Examples"},
    "backbones.ResNet50": {"Examples"},
    # These raise no errors; `write_configuration` reads the files of `Tls`.
    "evaluation.Report": {"Raises"},
    "evaluation.to_json": {"Raises"},
    "faces.Detector": {"Args: *args", "Args: **kwargs"},  # the signature of every protocol
    "gallery.EmbedderMismatchError": {"Raises"},
    "gallery.GalleryFileError": {"Raises"},
    "gallery.StaleThresholdWarning": {"Raises"},
    "gallery.UnknownPersonError": {"Raises"},
    "margins.NoMargin": {"Raises"},
    "plan.ImageSetup": {"Raises"},
    "plan.Setup": {"Raises"},
    "pretrained.presets": {"Raises"},
    "recipes.make_augmentation": {"Raises"},
    "recipes.names": {"Raises"},
    "plan.fastest": {"Raises"},
    "serving.ServingError": {"Raises"},
    "serving.Tls": {"Raises"},
}

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Examples|Call arguments|References|[A-Z][\w ]*):")
ENTRY = re.compile(r" {4}(\*{0,2}\w+): ")


def module_of(package):
    return importlib.import_module(".".join(["keras_arcface", package]).rstrip("."))


def public_names(package):
    """Returns the functions and classes of a package by their full name."""
    module = module_of(package)
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    found = {f"{package}.{name}".lstrip("."): getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)}


def all_names():
    """Returns the public names by package. An object with several names, such as an alias, occurs once."""
    seen, found = set(), {package: {} for package in PACKAGES}
    for package in PACKAGES:
        names = public_names(package).items()
        for name, value in sorted(names, key=lambda item: item[0].split(".")[-1] != item[1].__name__):  # aliases last
            if id(value) not in seen:
                found[package][name] = value
                seen.add(id(value))
    return found


def sections_of(docstring):
    """Returns the contents of the Google sections by title. The text outside of them has the title ''."""
    sections, title = {"": []}, ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        if match := SECTION.fullmatch(line):
            title = match[1]
        elif line and not line.startswith(" "):
            title = ""
        sections.setdefault(title, []).append(line)
    return {title: "\n".join(lines) for title, lines in sections.items()}


def entries_of(sections, *titles):
    """Returns the names that sections describe."""
    lines = "\n".join(sections.get(title, "") for title in titles).splitlines()
    return [match[1] for line in lines if (match := ENTRY.match(line))]


def is_ours(value):
    return getattr(value, "__module__", "").startswith("keras_arcface")


def is_record(value):
    return inspect.isclass(value) and (dataclasses.is_dataclass(value) or hasattr(value, "_fields"))


def parameters_of(value):
    """Returns the names of the parameters of a function or class, with the stars of `*args` and `**kwargs`."""
    if hasattr(value, "_fields"):
        return list(value._fields)
    if inspect.isclass(value):
        owner = next(cls for cls in value.__mro__ if "__init__" in vars(cls))
        if not is_ours(owner) and not is_record(value):
            return []
        value = owner.__init__
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(value).parameters.values()
    names = [stars.get(parameter.kind, "") + parameter.name for parameter in parameters]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def returns_something(function):
    annotation = inspect.signature(function).return_annotation
    if annotation is not inspect.Signature.empty:
        return annotation not in (None, "None")
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return any(
        isinstance(node, (ast.Yield, ast.YieldFrom)) or (isinstance(node, ast.Return) and node.value is not None)
        for node in ast.walk(tree)
    )


def faults_of(value, required=True):
    """Yields what the docstring of a function or class lacks.

    Args:
        value: the function or class.
        required: if false, the docstring needs only a summary, but its sections must be correct.
    """
    sections = sections_of(value.__doc__)
    if not sections[""].strip():
        yield "summary"
    expected = parameters_of(value)
    given = entries_of(sections, "Args", *(["Attributes"] if is_record(value) else []))
    is_result = is_record(value) and "Attributes" in sections and "Args" not in sections
    if required or "Args" in sections:
        yield from (f"Args: {name}" for name in expected if name not in given)
    yield from (f"Args: {name} is not a parameter" for name in entries_of(sections, "Args") if name not in expected)
    if ">>>" in "".join(text for title, text in sections.items() if title != "Examples"):
        yield "Examples: `>>>` outside of the section"
    elif required and ">>> " not in sections.get("Examples", ""):
        yield "Examples"
    if not required:
        return
    if not inspect.isclass(value) and returns_something(value) and not {"Returns", "Yields"} & sections.keys():
        yield "Returns"
    if "Raises" not in sections and not is_result:
        yield "Raises"


def faults_of_members(cls):
    """Yields what the docstrings lack of public methods and properties that the package defines and Keras does not."""
    for name in sorted(dir(cls)):
        owners = [base for base in cls.__mro__ if name in vars(base)]
        if name.startswith("_") or not owners or not all(is_ours(owner) for owner in owners):
            continue
        kinds = (types.FunctionType, classmethod, staticmethod, property)
        values = [value for owner in owners if isinstance(value := vars(owner)[name], kinds)]
        if not isinstance(vars(owners[0])[name], kinds):
            continue
        documented = next((value for value in values if value.__doc__), None)  # an override may inherit the docstring
        if documented is None:
            yield f".{name}: summary"
        elif not isinstance(documented, property):
            function = getattr(documented, "__func__", documented)
            yield from (f".{name}: {fault}" for fault in faults_of(function, required=False))


def faults_of_name(name, value):
    """Returns what the docstrings of a public name and of its members lack, without the exceptions."""
    faults = [fault for fault in faults_of(value) if fault not in EXCEPTIONS.get(name, ())]
    return [*faults, *(faults_of_members(value) if inspect.isclass(value) else ())]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package or "keras_arcface")
def test_docstrings_of_public_names_are_complete(package):
    faults = {name: faults_of_name(name, value) for name, value in all_names()[package].items()}
    report = "\n".join(f"{name}: {', '.join(missing)}" for name, missing in faults.items() if missing)
    print(f"{sum(not missing for missing in faults.values())} of {len(faults)} names are complete\n{report}")
    if package in INCOMPLETE:
        assert report or not faults, f"remove {package!r} from INCOMPLETE"
    else:
        assert not report


def test_number_of_public_names_with_complete_docstrings():
    names = {name: value for found in all_names().values() for name, value in found.items()}
    complete = sum(not faults_of_name(name, value) for name, value in names.items())
    print(f"{complete} of {len(names)} public functions and classes have complete docstrings")
    assert complete == len(names) or INCOMPLETE


def test_exceptions_are_necessary():
    names = {name: value for found in all_names().values() for name, value in found.items()}
    for name, sections in EXCEPTIONS.items():
        assert sections <= set(faults_of(names[name])), name


def documented(size, *, name="x", **kwargs):
    """Returns a value.

    Args:
        size: number of values, and a
            continued line: with a colon.
        name: a name.
        **kwargs: other arguments.

    Returns:
        The number.

    Raises:
        ValueError: never.

    Examples:
        >>> 1
        1
    """
    return size


@dataclasses.dataclass
class Result:
    """A result.

    Attributes:
        value: a value.

    Examples:
        >>> 1
        1
    """

    value: int


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ("", []),
        ("Returns a value.", ["summary"]),
        ("        size: number of values, and a\n            continued line: with a colon.\n", ["Args: size"]),
        ("        **kwargs: other arguments.\n", ["Args: **kwargs"]),
        ("    Returns:\n        The number.\n", ["Returns"]),
        ("    Raises:\n        ValueError: never.\n", ["Raises"]),
        ("    Examples:\n        >>> 1\n        1\n", ["Examples"]),
        ("    Examples:\n", ["Examples: `>>>` outside of the section"]),
    ],
)
def test_a_missing_part_is_found(monkeypatch, removed, expected):
    original = documented.__doc__
    assert removed in original
    monkeypatch.setattr(documented, "__doc__", original.replace(removed, ""))
    assert list(faults_of(documented)) == expected


def test_an_unknown_parameter_and_a_misplaced_example_are_found(monkeypatch):
    changed = documented.__doc__.replace("name: a name", "names: a name").replace("Examples:", "Example:")
    monkeypatch.setattr(documented, "__doc__", changed)
    expected = ["Args: name", "Args: names is not a parameter", "Examples: `>>>` outside of the section"]
    assert list(faults_of(documented)) == expected


def test_a_result_needs_attributes_and_no_errors(monkeypatch):
    assert not list(faults_of(Result))
    monkeypatch.setattr(Result, "__doc__", Result.__doc__.replace("value: a value", "name: a name"))
    assert list(faults_of(Result)) == ["Args: value"]


class Shape:
    def described(self):
        """Does something.

        Args:
            size: not a parameter.
        """

    def hidden(self):
        pass


class Square(Shape):
    def described(self):
        pass

    @property
    def area(self):
        return 1

    def _private(self):
        pass


def test_members_need_a_summary_and_may_inherit_it(monkeypatch):
    monkeypatch.setattr(Shape, "__module__", "keras_arcface.shapes")
    monkeypatch.setattr(Square, "__module__", "keras_arcface.shapes")
    expected = [".area: summary", ".described: Args: size is not a parameter", ".hidden: summary"]
    assert list(faults_of_members(Square)) == expected
