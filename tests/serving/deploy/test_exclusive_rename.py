import pytest

from keras_arcface.serving.deploy import exclusive_rename


def without_renameat2(monkeypatch):
    monkeypatch.setattr(exclusive_rename.ctypes, "CDLL", lambda *_, **__: object())


@pytest.mark.parametrize("system", ["with renameat2", "without"])
@pytest.mark.parametrize("kind", ["file", "empty directory", "full directory", "link to nothing"])
def test_nothing_is_replaced(kind, system, tmp_path, monkeypatch):
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
        exclusive_rename.rename_exclusively(source, target)
    assert (source / "inner").exists()
    exclusive_rename.rename_exclusively(source, tmp_path / "new")
    assert (tmp_path / "new" / "inner").exists()
    with pytest.raises(FileNotFoundError):
        exclusive_rename.rename_exclusively(source, tmp_path / "newer")
