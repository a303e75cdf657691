import re

import pytest

from keras_arcface.serving.deploy.served_models import ServedModel


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a b", "../a", ".a", "-a", "ä", "a\n", "a'", None])
def test_names_that_are_not_valid_in_a_url_are_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"Received: name={name!r}")):
        ServedModel(name, "/models/faces")


@pytest.mark.parametrize("path", ["models/faces", "", "/models/../faces", "/models/fa\nces", "gs://bucket/faces"])
def test_a_base_path_must_be_absolute(path):
    with pytest.raises(ValueError, match=r"Model 'faces': base_path must be an absolute path .* Received: base_path="):
        ServedModel("faces", path)


def test_a_version_is_not_a_base_path(base, tmp_path):
    with pytest.raises(
        ValueError, match=r"parent directory of the versions, not a version. Received: base_path='.*/4'"
    ):
        ServedModel("faces", base / "4")
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match="parent directory of the versions"):
        ServedModel("faces", tmp_path / "exported")


@pytest.mark.parametrize(
    "versions", ["newest", "latest:0", "latest:-1", "latest:", "all:2", "4", [], [0], [4, 4], [2**63]]
)
def test_invalid_versions_are_refused(versions):
    with pytest.raises(ValueError, match=rf"Model 'faces': versions must be .*Received: {re.escape(f'{versions=}')}"):
        ServedModel("faces", "/models/faces", versions)


@pytest.mark.parametrize(
    ("versions", "labels", "match"),
    [
        ("all", {"a/b": 4}, "labels must consist of letters, digits and `_`"),
        ("all", {"": 4}, "labels must consist of letters, digits and `_`"),
        ("all", {"stable": 0}, "integers of at least 1"),
        ([3, 4], {"stable": 2}, r"served versions. Received: labels=\{'stable': 2\}, versions=\(3, 4\)"),
        ("latest", {"stable": 3, "canary": 4}, "labels must point to at most 1 versions. Received: "),
        ("latest:2", {"stable": 2}, r"labels must point to served versions, which are \[3, 4\]. Received: "),
        ("latest:9", {"stable": 5}, r"must be among the versions in .*, \[2, 3, 4\]. Received: "),
        ("all", {"stable": 5}, r"must be among the versions in .*, \[2, 3, 4\]. Received: "),
        ([4, 5], {"stable": 4}, r"must be among the versions in .*, \[2, 3, 4\]. Received: "),
    ],
)
def test_labels_must_point_to_served_versions(versions, labels, match, base):
    with pytest.raises(ValueError, match=match):
        ServedModel("faces", base, versions, labels)


def test_warnings_about_labels(base, tmp_path, caplog):
    ServedModel("faces", base, "latest:2", {"canary": 4})
    ServedModel("faces", base, [3, 4], {"stable": 3})
    ServedModel("faces", base, "latest:4", {"stable": 2})
    assert not caplog.messages
    ServedModel("faces", base, "latest:2", {"stable": 3})
    assert "version 3 has a label, and the next publication will end it because of versions='latest:2'" in caplog.text
    ServedModel("faces", "/nowhere/faces", [7], {"stable": 7})
    assert "/nowhere/faces does not exist on this host" in caplog.text
