import struct

import numpy as np
import pytest
import tensorflow as tf

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


def test_tensorflow_reads_what_is_written_here_and_the_reverse(path, tmp_path):
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == RECORDS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == path.read_bytes()
    assert list(tfrecord.read_records(path)) == list(zip(OFFSETS, RECORDS, strict=False))


def test_places_of_records(path):
    places = list(tfrecord.read_prefixes(path, num_bytes=10))
    assert places == [(o, len(r), r[:10]) for o, r in zip(OFFSETS, RECORDS, strict=False)]
    with open(path, "rb") as file:
        for (offset, length, _), record in zip(places, RECORDS, strict=True):
            assert tfrecord.read_record(file.fileno(), offset, length, path) == record


def damaged(path, offset, content):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (0, "the checksum of its length does not match"),
        (8, "the checksum of its length does not match"),
        (12, "the checksum of its data does not match"),
        (12 + 900, "the checksum of its data does not match"),
    ],
)
def test_a_damaged_record_is_named_and_the_next_is_found(at, reason, path):
    damaged(path, OFFSETS[3] + at, b"\xee")
    with pytest.raises(tfrecord.DamagedRecordError, match=rf"records.tfrecord: damaged record at offset 948: {reason}"):
        read(path)
    errors = []
    assert read(path, on_damage=errors.append) == RECORDS[:3] + RECORDS[4:]
    assert [str(error) for error in errors] == [f"{path}: damaged record at offset {OFFSETS[3]}: {reason}"]
    with open(path, "rb") as file, pytest.raises(tfrecord.DamagedRecordError, match=f"at offset {OFFSETS[3]}"):
        tfrecord.read_record(file.fileno(), OFFSETS[3], 900, path)


def test_a_length_with_a_true_checksum_that_leads_out_of_the_file(path):
    length = struct.pack("<Q", 2**40)
    damaged(
        path,
        OFFSETS[3],
        tfrecord.frame(length)[0][:0] + length + tfrecord._masked_checksum(tfrecord.google_crc32c.value(length)),
    )
    with pytest.raises(
        tfrecord.DamagedRecordError, match=r"its length is 1099511627776 bytes, but the file ends before"
    ):
        read(path)
    with pytest.raises(tfrecord.DamagedRecordError, match="its length is damaged"):
        list(tfrecord.read_prefixes(path, 10))


@pytest.mark.parametrize("left", [1, 11, 12, 100])
def test_a_file_that_ends_within_a_record(left, path):
    path.write_bytes(path.read_bytes()[: OFFSETS[5] + left])
    with pytest.raises(tfrecord.DamagedRecordError, match=f"at offset {OFFSETS[5]}"):
        read(path)
    assert read(path, on_damage=lambda error: None) == RECORDS[:5]


def test_a_long_damaged_stretch_is_passed_over(tmp_path):
    record = bytes(range(256)) * 4000
    path = tmp_path / "long"
    path.write_bytes(b"".join(tfrecord.frame(record) * 1 + tfrecord.frame(record) + tfrecord.frame(b"end")))
    damaged(path, 0, bytes(1_500_000))
    assert read(path, on_damage=lambda error: None) == [b"end"]


@pytest.mark.parametrize("label", [0, 1, 127, 128, 16_383, 16_384, 2**24 + 1, 2**40 + 3])
@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 5_000, 20_000, 3_000_000])
@pytest.mark.parametrize("name", ["", "a/b.jpg", "é" * 100])
def test_an_example_is_what_protocol_buffers_say(label, size, name):
    image = bytes(size)
    serialized = b"".join(schema.encode(image, label, name))
    features = tf.train.Example.FromString(serialized).features.feature
    assert set(features) == {"image", "label", "name"}
    assert features["image"].bytes_list.value[:] == [image]
    assert features["label"].int64_list.value[:] == [label]
    assert features["name"].bytes_list.value[:] == [name.encode()]
    assert len(tf.train.Example.FromString(serialized).SerializeToString()) == len(serialized)
    assert schema.read_label(serialized[: schema.LABEL_PREFIX_BYTES]) == label


@pytest.mark.parametrize("start", [b"", b"\x0a\x05", b"no example at all", b"\x0a\x05label\x12" + bytes(20)])
def test_no_label_in_what_is_no_example(start):
    with pytest.raises(ValueError, match="no label at the position that the schema defines"):
        schema.read_label(start)
