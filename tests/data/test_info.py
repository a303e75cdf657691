import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_arcface.data import DatasetInfo
from keras_arcface.data import load_info
from keras_arcface.data.info import Conversion
from keras_arcface.data.info import Shard

COUNTS = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # surrogates are not valid UTF-8
SHARDS = st.builds(Shard, file=TEXTS, num_examples=COUNTS, num_bytes=COUNTS, sha256=TEXTS)
CONVERSIONS = st.builds(
    Conversion, images=COUNTS, labels=TEXTS, fingerprint=TEXTS, examples_per_shard=COUNTS, seed=st.integers()
)
INFOS = st.builds(
    DatasetInfo,
    num_classes=COUNTS,
    num_examples=COUNTS,
    image_size=st.tuples(COUNTS, COUNTS),
    shards=st.lists(SHARDS, max_size=3).map(tuple),
    source=TEXTS,
    alignment=st.sampled_from([None, "none", "five_points"]),
    class_names=st.none() | st.lists(TEXTS, max_size=3).map(tuple),
    source_labels=st.none() | st.lists(COUNTS, max_size=3).map(tuple),
    skipped=st.lists(TEXTS, max_size=3).map(tuple),
    conversion=st.none() | CONVERSIONS,
)
EXAMPLE = DatasetInfo(3, 12, (32, 32), (Shard("00000-of-00001.tfrecord", 12, 999, "ab"),), "ImageFolder('faces')")


@given(INFOS)
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
            "dataset.json must be .* Received: a file that raises KeyError: 'sha256'",
        ),
        (lambda text: "[" * 100_000, "dataset.json must be .* Received: a file that raises RecursionError"),
        (lambda text: "[1]", "dataset.json must be .* Received: a file that raises TypeError"),
        (lambda text: "{}", "dataset.json must be .* Received: a file that raises KeyError"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 9'),
            "expected schema_version=1. Received: schema_version=9",
        ),
    ],
)
def test_a_damaged_dataset_json_is_named(change, message, tmp_path):
    path = EXAMPLE.save(tmp_path)
    assert json.loads(path.read_text()).keys() == {*dataclasses.asdict(EXAMPLE), "sha256"}
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load_info(tmp_path)
