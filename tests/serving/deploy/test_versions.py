import pytest
from hypothesis import given
from hypothesis import strategies

from keras_arcface.serving.deploy.versions import MAX_VERSION
from keras_arcface.serving.deploy.versions import next_version_number
from keras_arcface.serving.deploy.versions import version_number


@pytest.mark.parametrize("name", ["7_000", "\u0667", "seven", "7.0", "0x7", "9223372036854775808", "7~", ".tmp-7"])
def test_names_that_the_server_ignores(name):
    assert version_number(name) is None


@pytest.mark.parametrize(("name", "number"), [("7", 7), ("007", 7), ("+7", 7), ("-7", -7), ("0", 0)])
def test_names_that_the_server_reads_as_versions(name, number):
    assert version_number(name) == number


@given(strategies.integers(-MAX_VERSION - 1, MAX_VERSION), strategies.integers(0, 3))
def test_every_integer_of_64_bits_is_a_version(number, zeros):
    sign = "-" if number < 0 else ""
    assert version_number(f" {sign}{'0' * zeros}{abs(number)} ") == number
    assert version_number(f"{number}.") is None


@pytest.mark.parametrize(
    ("names", "number"), [([], 1), (["-3", "0"], 1), (["2", "10"], 11), (["2", ".withdrawn-7", ".tmp-9"], 8)]
)
def test_the_next_number_follows_every_number_ever_used(names, number, tmp_path):
    for name in names:
        (tmp_path / name).mkdir()
    assert next_version_number(tmp_path) == number
