import pytest

from keras_arcface.serving.deploy.versions import version_number


@pytest.mark.parametrize("name", ["7_000", "\u0667", "seven", "7.0", "0x7", "9223372036854775808", "7~", ".tmp-7"])
def test_names_that_the_server_ignores(name):
    assert version_number(name) is None


@pytest.mark.parametrize(("name", "number"), [("7", 7), ("007", 7), ("+7", 7), ("-7", -7), ("0", 0)])
def test_names_that_the_server_reads_as_versions(name, number):
    assert version_number(name) == number
