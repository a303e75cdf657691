import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_arcface.data import DatasetInfo
from keras_arcface.data import info as info_module
from keras_arcface.data import load_info
from keras_arcface.data.info import Conversion
from keras_arcface.data.info import Shard

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.just("\udcff"), max_size=20)  # the byte 255 in a name
FILES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0."), min_size=1, max_size=20)
SHA256 = st.binary(min_size=32, max_size=32).map(bytes.hex)
CONVERSIONS = st.builds(Conversion, labels=TEXTS, fingerprint=TEXTS)


@st.composite
def infos(draw):
    """Draws a description whose values match each other."""
    shards = tuple(
        Shard(file, count, 16 * count + draw(st.integers(0, 2**40)), draw(SHA256))
        for file in draw(st.lists(FILES, min_size=1, max_size=3, unique=True))
        for count in [draw(st.integers(1, 2**40))]
    )
    num_classes = draw(st.integers(1, 3))
    items = {"min_size": num_classes, "max_size": num_classes}
    return DatasetInfo(
        num_classes=num_classes,
        num_examples=sum(shard.num_examples for shard in shards),
        image_size=draw(st.just((112, 112)) | st.tuples(*[st.integers(1, 4096)] * 2)),
        shards=shards,
        source=draw(TEXTS),
        alignment=draw(st.sampled_from([None, "none"])),
        class_names=draw(st.none() | st.lists(TEXTS, **items).map(tuple)),
        source_labels=draw(st.none() | st.lists(st.integers(0, 2**63 - 1), **items).map(tuple)),
        skipped=draw(st.lists(TEXTS, min_size=3, max_size=5).map(tuple)),
        conversion=draw(st.none() | CONVERSIONS),
    )


EXAMPLE = DatasetInfo(3, 12, (32, 32), (Shard("00000-of-00001.tfrecord", 12, 999, "ab" * 32),), "ImageFolder('faces')")


@given(infos())
def test_dataset_json_survives_saving_and_loading(tmp_path_factory, info):
    directory = tmp_path_factory.getbasetemp()
    info.save(directory)
    assert load_info(directory) == info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], "dataset.json must be an unmodified file that .*write_dataset wrote. Received: "),
        (lambda text: text.replace('"num_classes"', '"classes"'), "dataset.json must be an unmodified file.*checksum"),
        (
            lambda text: text.replace('"num_examples": 12', '"num_examples": 13', 1),
            "expected content that matches its checksum. Received: other content",
        ),
        (
            lambda text: text.replace('"sha256": "', '"sha265": "'),
            "dataset.json must be .* Received: other content",
        ),
        (lambda text: "[" * 100_000, "dataset.json must be .* Received: JSON that is too deeply nested"),
        (lambda text: "[1]", r"dataset.json must be .* expected a JSON object. Received: \[1\]"),
        (lambda text: "{}", "dataset.json must be .* schema_version must be 1. Received: schema_version=None"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 9'),
            "schema_version must be 1. Received: schema_version=9",
        ),
    ],
)
def test_a_damaged_dataset_json_is_named(change, message, tmp_path):
    path = EXAMPLE.save(tmp_path)
    assert json.loads(path.read_text()).keys() == {*dataclasses.asdict(EXAMPLE), "sha256"}
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load_info(tmp_path)


def save_fields(directory, changes):
    """Writes a `dataset.json` with changed fields and a correct checksum."""
    fields = json.loads(EXAMPLE.save(directory).read_text())
    del fields["sha256"]
    for key, value in changes.items():
        *parents, last = key.split(".")
        changed = fields
        for parent in parents:
            changed = changed[int(parent) if parent.isdecimal() else parent]
        changed[last] = value
    path = directory / "dataset.json"
    path.write_text(json.dumps({**fields, "sha256": info_module._checksum(fields)}))


SHARD = dataclasses.asdict(EXAMPLE.shards[0])


@pytest.mark.parametrize("value", [0, -5, 10**12, 12.0, "12", True, None, [], 2**63, 13])
def test_a_count_that_is_no_count_or_not_that_of_the_shards_is_refused(value, tmp_path):
    save_fields(tmp_path, {"num_examples": value})
    with pytest.raises(ValueError, match=r"dataset.json must be .*num_examples must be .*Received: num_examples="):
        load_info(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[
            ({"num_classes": value}, f"num_classes must be an integer in .*={value!r}")
            for value in (0, -5, "3", 3.0, True)
        ],
        ({"num_classes": 10**12}, "num_classes must be at most 12, the number of images. Received: num_classes=10{12}"),
        ({"shards": []}, "num_examples must be 0, the number of images in all shards. Received: num_examples=12"),
        ({"shards": [SHARD, SHARD], "num_examples": 24}, "shards must be files with different names"),
        ({"shards": 3}, "shards must be a list of valid Shards. Received: shards=3"),
        ({"shards": [3]}, r"shards\[0\]: fields must be a JSON object. Received: fields=3"),
        ({"shards.0.num_examples": -1}, r"shards\[0\]: num_examples must be an integer in \[0, "),
        ({"shards.0.num_bytes": 191}, r"num_bytes must be an integer in \[192, \d+\]. Received: num_bytes=191"),
        ({"shards.0.num_bytes": 999.0}, r"num_bytes must be an integer in .* Received: num_bytes=999.0"),
        ({"shards.0.sha256": "AB" * 32}, "sha256 must be 64 hexadecimal digits. Received: sha256='ABAB"),
        *[
            ({"shards.0.file": file}, r"shards\[0\]: file must be a file name without a path. Received: file=")
            for file in ("/etc/passwd", "../faces.tfrecord", "a/b", "a\\b", "..", ".", "", "a\0b", 3, None, ["a"])
        ],
        *[
            ({"image_size": size}, "image_size must be ")
            for size in ([0, 32], [32], [32, 32, 3], [32.0, 32], "32", [-4, -4])
        ],
        ({"image_size": [2**20, 2**20]}, r"with at most 16777216 pixels. Received: image_size=\(1048576, 1048576\)"),
        ({"class_names": ["a"]}, "class_names must be a list with 3 items, num_classes"),
        ({"class_names": "abc"}, "class_names must be a list of valid strs. Received: class_names='abc'"),
        ({"class_names": ["a", "b", 3]}, "class_names must be a list of valid strs"),
        ({"source_labels": [0, 1, True]}, "source_labels must be a list of valid ints"),
        ({"skipped": [[]]}, "skipped must be a list of valid strs"),
        ({"source": 3}, "source must be a text. Received: source=3"),
        ({"alignment": "yes"}, "alignment must be "),
        ({"alignment": ["yes"]}, "alignment must be "),
        (
            {"conversion": {}},
            "conversion: fields must be an object with images, labels, fingerprint, examples_per_shard",
        ),
        ({"conversion": "none"}, "conversion: fields must be a JSON object"),
        ({"schema_version": True}, "schema_version must be 1. Received: schema_version=True"),
        ({"x" * 10**6: 1}, r"fields must be those of DatasetInfo. Received: fields=\['xxx"),
        ({"num_examples": float("nan")}, "expected finite numbers. Received: NaN"),
        ({"num_examples": float("inf")}, "expected finite numbers. Received: Infinity"),
    ],
)
def test_other_values_are_refused(changes, message, tmp_path):
    save_fields(tmp_path, changes)
    with pytest.raises(ValueError, match=f"dataset.json must be an unmodified file .*{message}") as caught:
        load_info(tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_repeated_key_is_refused(tmp_path):
    path = EXAMPLE.save(tmp_path)
    path.write_text(path.read_text().replace("{", '{"num_classes": 2,', 1))
    with pytest.raises(ValueError, match=r"only once. Received: 'num_classes' more than once"):
        load_info(tmp_path)


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "dataset.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"expected at most 1073741824 bytes. Received: 1099511627776 bytes"):
        load_info(tmp_path)
