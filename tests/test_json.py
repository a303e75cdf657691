import math

import pytest

from keras_arcface._json import parse
from keras_arcface._json import parse_object


def test_constants_are_accepted_only_on_request():
    assert parse("[-Infinity, Infinity]", allow_constants=True) == [-math.inf, math.inf]
    assert math.isnan(parse(b"NaN", allow_constants=True))
    for name in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ValueError, match=f"expected finite numbers. Received: {name}"):
            parse_object(f'{{"a": {name}}}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON. Received: JSONDecodeError"),
        (b"\xff", "expected JSON. Received: UnicodeDecodeError"),
        ("[" * 100_000, "expected JSON. Received: JSON that is too deeply nested"),
        ('{"a": [{"b": 1, "b": 2}]}', "only once. Received: 'b' more than once"),
    ],
)
def test_other_text_is_refused(text, message):
    for allow_constants in (True, False):
        with pytest.raises(ValueError, match=message):
            parse(text, allow_constants)
    with pytest.raises(ValueError, match=message):
        parse_object(text)


def test_only_an_object_is_an_object():
    assert parse("[1]") == [1]
    with pytest.raises(ValueError, match=r"expected a JSON object. Received: \[1\]"):
        parse_object("[1]")
