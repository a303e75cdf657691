import pytest

from keras_arcface.serving.deploy import versions as numbering


@pytest.mark.parametrize("name", ["7_000", "\u0667", "seven", "7.0", "0x7", "9223372036854775808", "7~", ".tmp-7"])
def test_what_it_does_not_is_not(name):
    assert numbering.number_of(name) is None


@pytest.mark.parametrize(("name", "number"), [("7", 7), ("007", 7), ("+7", 7), ("-7", -7), ("0", 0)])
def test_numbers_are_read_as_the_server_reads_them(name, number):
    assert numbering.number_of(name) == number


def without_renameat2(monkeypatch):
    monkeypatch.setattr(numbering.ctypes, "CDLL", lambda *_, **__: object())


@pytest.mark.parametrize("system", ["with renameat2", "without"])
@pytest.mark.parametrize("kind", ["file", "empty directory", "full directory", "link to nothing"])
def test_renaming_replaces_nothing(kind, system, tmp_path, monkeypatch):
    if system == "without":
        without_renameat2(monkeypatch)
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    if kind == "file":
        target.write_text("")
    elif kind == "link to nothing":
        target.symlink_to("nothing")
    else:
        target.mkdir()
    if kind == "full directory":
        (target / "other").mkdir()
    with pytest.raises(FileExistsError):
        numbering.rename_to_new(source, target)
    assert (source / "inner").exists()
    numbering.rename_to_new(source, tmp_path / "new")
    assert (tmp_path / "new" / "inner").exists()
    with pytest.raises(FileNotFoundError):
        numbering.rename_to_new(source, tmp_path / "newer")
