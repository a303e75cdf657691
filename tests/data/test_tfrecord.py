import os
import re
import struct
import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_arcface.data import forward_reader
from keras_arcface.data import schema
from keras_arcface.data import tfrecord

RECORDS = [bytes([number]) * (300 * number) for number in range(6)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "records.tfrecord"
    path.write_bytes(b"".join(piece for record in RECORDS for piece in tfrecord.frame(record[:100], record[100:])))
    return path


OFFSETS = np.cumsum([0] + [len(record) + 16 for record in RECORDS]).tolist()


def read(path, **kwargs):
    return [record for _, record in tfrecord.read_records(path, **kwargs)]


def test_tensorflow_writes_the_same_file_and_reads_it(path, tmp_path):
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == RECORDS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == path.read_bytes()
    assert list(tfrecord.read_records(path)) == list(zip(OFFSETS, RECORDS, strict=False))


def test_prefixes_and_single_records(path):
    prefixes = list(tfrecord.read_prefixes(path, num_bytes=10))
    assert prefixes == [(o, len(r), r[:10]) for o, r in zip(OFFSETS, RECORDS, strict=False)]
    with open(path, "rb") as file:
        for (offset, length, _), record in zip(prefixes, RECORDS, strict=True):
            assert tfrecord.read_record(file.fileno(), offset, length, path) == record


def damaged(path, offset, content):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (0, "expected a length that matches its checksum. Received: header [0-9a-f]{24}"),
        (8, "expected a length that matches its checksum. Received: header [0-9a-f]{24}"),
        (12, "expected data with checksum [0-9a-f]{8}. Received: data with checksum [0-9a-f]{8}"),
        (12 + 900, "expected data with checksum [0-9a-f]{8}. Received: data with checksum [0-9a-f]{8}"),
    ],
)
def test_a_damaged_record_is_named_and_reading_continues_with_the_next(at, reason, path):
    damaged(path, OFFSETS[3] + at, b"\xee")
    with pytest.raises(tfrecord.DamagedRecordError, match=rf"records.tfrecord: damaged record at offset 948: {reason}"):
        read(path)
    errors = []
    assert read(path, on_damage=errors.append) == RECORDS[:3] + RECORDS[4:]
    assert len(errors) == 1
    assert re.fullmatch(f"{path}: damaged record at offset {OFFSETS[3]}: {reason}", str(errors[0]))
    with open(path, "rb") as file, pytest.raises(tfrecord.DamagedRecordError, match=f"at offset {OFFSETS[3]}"):
        tfrecord.read_record(file.fileno(), OFFSETS[3], 900, path)


def test_a_length_with_a_correct_checksum_beyond_the_end_of_the_file(path):
    length = struct.pack("<Q", 2**40)
    damaged(
        path,
        OFFSETS[3],
        tfrecord.frame(length)[0][:0] + length + tfrecord._masked_checksum(tfrecord.google_crc32c.value(length)),
    )
    with pytest.raises(
        tfrecord.DamagedRecordError,
        match=r"expected a length of at most \d+ bytes, where the file ends. Received: 1099511627776 bytes",
    ):
        read(path)
    with pytest.raises(tfrecord.DamagedRecordError, match=r"where the file ends. Received: 1099511627776 bytes"):
        list(tfrecord.read_prefixes(path, 10))


@pytest.mark.parametrize("left", [1, 11, 12, 100])
def test_a_file_that_ends_within_a_record(left, path):
    path.write_bytes(path.read_bytes()[: OFFSETS[5] + left])
    with pytest.raises(tfrecord.DamagedRecordError, match=f"at offset {OFFSETS[5]}"):
        read(path)
    assert read(path, on_damage=lambda error: None) == RECORDS[:5]


def test_a_long_damaged_section_is_skipped(tmp_path):
    record = bytes(range(256)) * 4000
    path = tmp_path / "long"
    path.write_bytes(b"".join(tfrecord.frame(record) * 1 + tfrecord.frame(record) + tfrecord.frame(b"end")))
    damaged(path, 0, bytes(1_500_000))
    assert read(path, on_damage=lambda error: None) == [b"end"]


def test_reading_a_damaged_file_reads_it_only_a_few_times(tmp_path, monkeypatch):
    header, *_ = tfrecord.frame(b"")
    path = tmp_path / "damaged"
    # After a header with a correct checksum, data with a wrong one, and after that no header.
    path.write_bytes((header + bytes(4) + b"a") * 10_000)
    num_bytes = 0

    def pread(*arguments):
        nonlocal num_bytes
        content = os.pread(*arguments)
        num_bytes += len(content)
        return content

    monkeypatch.setattr(tfrecord, "os", types.SimpleNamespace(pread=pread, fstat=os.fstat))
    errors = []
    assert read(path, on_damage=errors.append) == []
    assert len(errors) == 20_000
    assert num_bytes <= 2 * path.stat().st_size


def test_a_series_of_zeros_is_passed_over(path, monkeypatch):
    path.write_bytes(bytes(3 << 20) + path.read_bytes() + bytes(2 << 20))
    calls = []
    read_length = tfrecord._read_length
    monkeypatch.setattr(tfrecord, "_read_length", lambda header: calls.append(1) or read_length(header))
    assert read(path, on_damage=lambda error: None) == RECORDS
    assert len(calls) < 1000


@pytest.mark.parametrize("zeros", range(20))
def test_a_record_after_zeros_is_found(zeros, path, monkeypatch):
    monkeypatch.setattr(forward_reader, "CHUNK_BYTES", 16)
    path.write_bytes(b"a" + bytes(zeros) + path.read_bytes())
    assert read(path, on_damage=lambda error: None) == RECORDS


def check_example(image, label, name):
    serialized = b"".join(schema.encode(image, label, name))
    features = tf.train.Example.FromString(serialized).features.feature
    assert set(features) == {"image", "label", "name"}
    assert features["image"].bytes_list.value[:] == [image]
    assert features["label"].int64_list.value[:] == [label]
    assert features["name"].bytes_list.value[:] == [name.encode(errors="backslashreplace")]
    assert len(tf.train.Example.FromString(serialized).SerializeToString()) == len(serialized)
    assert schema.read_label(serialized[: schema.LABEL_PREFIX_BYTES]) == label
    assert schema.parse_one(serialized) == (image, label, name.encode(errors="backslashreplace").decode())


@given(st.binary(max_size=300), st.integers(0, 2**63 - 1), st.text(max_size=300))
def test_an_example_is_what_protocol_buffers_read(image, label, name):
    check_example(image, label, name)


# Sizes at which the lengths of the enclosing messages need one more byte.
@pytest.mark.parametrize("size", [90, 127, 128, 16_200, 16_384, 3_000_000])
@pytest.mark.parametrize("label", [127, 128, 2**40 + 3])
def test_examples_of_any_size(size, label):
    check_example(bytes(size), label, "a/b.jpg")


@given(st.lists(st.lists(st.binary(max_size=100), max_size=3), max_size=10))
def test_records_survive_writing_and_reading(tmp_path_factory, records):
    path = tmp_path_factory.getbasetemp() / "any.tfrecord"
    path.write_bytes(b"".join(piece for parts in records for piece in tfrecord.frame(*parts)))
    expected = [b"".join(parts) for parts in records]
    assert read(path) == expected
    assert [prefix for *_, prefix in tfrecord.read_prefixes(path, 10)] == [record[:10] for record in expected]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"label": 3, "name": b"a"}, "Feature: image (data type: string) is required"),
        ({"label": 3, "image": b"a"}, "Feature: name (data type: string) is required"),
        ({"label": b"3", "image": b"a", "name": b"a"}, "Key: label"),
        ({"label": 2**63, "image": b"a", "name": b"a"}, "below 2^63"),
        ({"label": -1, "image": b"a", "name": b"a"}, "below 2^63"),
    ],
)
def test_an_example_with_other_fields_is_named(features, message):
    def entry(name, value):
        if isinstance(value, bytes):
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        else:
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[(value + 2**63) % 2**64 - 2**63]))
        return tf.train.Features(feature={name: feature}).SerializeToString()

    content = b"".join(entry(*item) for item in features.items())
    example = b"\x0a" + bytes([len(content)]) + content
    with pytest.raises(ValueError, match=re.escape(message)):
        schema.read_labels([example])


@pytest.mark.parametrize(
    "serialized", [b"", b"no example", tf.train.Example().SerializeToString(), b"\x0a\x05" + bytes(5)]
)
def test_bytes_that_are_not_an_example_are_not_parsed(serialized):
    with pytest.raises(ValueError, match=r"expected an example with an image, a label and a name. Received: "):
        schema.parse_one(serialized)


def test_an_example_with_two_labels_is_named():
    first, second = (b"".join(schema.encode(b"image", label, "name")) for label in (1, 2))
    assert schema.read_labels([first, second]).tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"expected one label, at the start of the example. Received: another label 2"):
        schema.read_labels([first + second])


@pytest.mark.parametrize("start", [b"", b"\x0a\x05", b"no example at all", b"\x0a\x05label\x12" + bytes(20)])
def test_bytes_that_are_not_an_example_have_no_label(start):
    with pytest.raises(ValueError, match=r"expected an example that starts with its label. Received: "):
        schema.read_label(start)
