import os
import pickle
import re
import struct
from pathlib import Path

import pytest
import recordio_files
from conftest import encode
from conftest import make_face
from hypothesis import given
from hypothesis import strategies as st
from recordio_files import MAGIC_BYTES

from keras_arcface.data import RecordIO
from keras_arcface.data import recordio_format
from keras_arcface.data import write_dataset

PEOPLE = [[encode(make_face(person, image), ".jpg") for image in range(3)] for person in range(4)]
EXPECTED = [(image, label) for label, images in enumerate(PEOPLE) for image in images]


def read(source):
    return [(image, label) for image, label, _ in source]


@pytest.fixture
def ms1m(tmp_path):
    recordio_files.write(tmp_path / "train.rec", recordio_files.ms1m_layout(PEOPLE), "4,32,32\n")
    return tmp_path


def test_the_layout_of_ms1m(ms1m):
    faces = RecordIO(ms1m / "train.rec")
    assert (len(faces), faces.num_classes, faces.image_size) == (12, 4, (32, 32))
    assert read(faces) == EXPECTED
    assert faces.labels.tolist() == [label for _, label in EXPECTED]
    assert [name for *_, name in faces][:2] == ["train.rec[1]", "train.rec[2]"]
    assert str(faces) == f"RecordIO('{ms1m / 'train.rec'}')"


def test_a_folder_with_train_rec(ms1m):
    assert read(RecordIO(ms1m)) == EXPECTED


@pytest.mark.parametrize("remove", [False, True])
def test_without_an_index_the_file_is_scanned(remove, ms1m):
    if remove:
        (ms1m / "train.idx").unlink()
    faces = RecordIO(ms1m, index=None if remove else False)
    assert read(faces) == EXPECTED
    assert faces[0].name == "train.rec@0"
    assert faces[1].name == f"train.rec@{len(recordio_files.frame(recordio_files.payload(PEOPLE[0][0], [0, 1], 1)))}"


def test_scalar_labels_no_header_and_an_image_with_key_0(tmp_path):
    records = [(key, recordio_files.payload(image, label, key)) for key, (image, label) in enumerate(EXPECTED)]
    recordio_files.write(tmp_path / "plain.rec", records)
    faces = RecordIO(tmp_path / "plain.rec")
    assert read(faces) == EXPECTED
    assert (faces.num_classes, faces.image_size, faces.keys[0]) == (4, None, 0)


def test_records_are_in_the_order_of_their_keys(tmp_path):
    records = [(key, recordio_files.payload(image, label, key)) for key, (image, label) in enumerate(EXPECTED)]
    recordio_files.write(tmp_path / "train.rec", records[5:] + records[:5][::-1])
    assert read(RecordIO(tmp_path)) == EXPECTED


def test_more_identity_records_than_classes(tmp_path):
    records = recordio_files.ms1m_layout(PEOPLE)
    records[-1:-1] = [(key, recordio_files.payload(b"", [99, 99], key)) for key in range(17, 20)]
    recordio_files.write(tmp_path / "train.rec", records, "4,32,32")
    assert read(RecordIO(tmp_path)) == EXPECTED


# Images in which the magic number occurs, at multiples of four bytes and elsewhere, are split into several parts.
IMAGE_BYTES = st.lists(st.binary(max_size=9) | st.just(recordio_files.MAGIC_BYTES), min_size=1, max_size=8).map(
    b"".join
)


@given(st.lists(st.tuples(IMAGE_BYTES.filter(len), st.integers(0, 2**24 - 1)), min_size=1, max_size=6), st.booleans())
def test_records_survive_writing_and_reading(tmp_path_factory, records, has_index):
    path = tmp_path_factory.getbasetemp() / "any.rec"
    payloads = [(key, recordio_files.payload(image, label, key)) for key, (image, label) in enumerate(records)]
    recordio_files.write(path, payloads)
    faces = RecordIO(path, index=has_index)
    assert read(faces) == records
    assert faces.labels.tolist() == [label for _, label in records]


def test_the_magic_number_inside_the_header(tmp_path):
    # With label 3 and id 0xced7230a the header itself is split, before the image.
    records = [(recordio_files.MAGIC, recordio_files.payload(PEOPLE[0][0], 3, recordio_files.MAGIC))]
    recordio_files.write(tmp_path / "train.rec", records)
    faces = RecordIO(tmp_path)
    assert read(faces) == [(PEOPLE[0][0], 3)]
    assert faces.labels.tolist() == [3]


def test_keys_above_the_precision_of_float32(tmp_path):
    first = 17_186_123
    records = recordio_files.ms1m_layout(PEOPLE, first_key=first)
    header = struct.unpack_from("<ff", records[-1][1], 24)
    assert header[0] != first + 12, "the test requires a header that float32 rounds"
    recordio_files.write(tmp_path / "train.rec", records)
    faces = RecordIO(tmp_path)
    assert read(faces) == EXPECTED
    assert faces.keys.tolist() == list(range(first, first + 12))


def test_labels_above_the_precision_of_float32_must_be_passed(tmp_path):
    true = [2**24 - 1, 2**24, 2**24 + 1]
    records = [(key, recordio_files.payload(PEOPLE[0][key], label, key)) for key, label in enumerate(true)]
    recordio_files.write(tmp_path / "train.rec", records, f"{2**24 + 2},32,32")
    faces = RecordIO(tmp_path)
    assert faces[0].label == 2**24 - 1
    for index in (1, 2):
        with pytest.raises(
            ValueError,
            match=r"must have a label below 16777216\. RecordIO stores labels.*labels=\.\.\.\).*label=16777216",
        ):
            faces[index]
    assert faces.labels.tolist() == [2**24 - 1, -1, -1]
    given = RecordIO(tmp_path, labels=true)
    assert [record.label for record in given] == true
    assert given.labels.tolist() == true
    with pytest.raises(ValueError, match=r"labels must be 3 integers of at least 0.*shape \(2,\)"):
        RecordIO(tmp_path, labels=true[:2])


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf")])
def test_an_invalid_label_is_named(label, tmp_path):
    recordio_files.write(tmp_path / "train.rec", [(7, recordio_files.payload(PEOPLE[0][0], label, 7))])
    with pytest.raises(ValueError, match=r"train.rec.*offset 0.*label"):
        RecordIO(tmp_path)[0]


def test_ids_may_differ_from_keys_in_a_shuffled_copy(tmp_path):
    records = [(key, recordio_files.payload(*EXPECTED[key], (key * 5) % 12)) for key in range(12)]
    recordio_files.write(tmp_path / "train.rec", records)
    assert read(RecordIO(tmp_path)) == EXPECTED


def test_a_key_that_differs_from_the_id_of_its_record_is_damage(ms1m):
    index = ms1m / "train.idx"
    index.write_text(index.read_text().replace("\n3\t", "\n300\t"))
    faces = RecordIO(ms1m)
    with pytest.raises(ValueError, match=r"train.rec\[300\] at offset \d+ is damaged. Expected: key 300. Received: 3"):
        faces[11]
    assert read(faces[i] for i in range(2)) == EXPECTED[:2]


def test_it_can_be_pickled(ms1m):
    faces = pickle.loads(pickle.dumps(RecordIO(ms1m)))
    assert read(faces) == EXPECTED


def test_the_fingerprint_changes_with_the_file(ms1m):
    before = RecordIO(ms1m).fingerprint()
    assert RecordIO(ms1m).fingerprint() == before
    os.utime(ms1m / "train.rec", ns=(0, 0))
    assert RecordIO(ms1m).fingerprint() != before


def test_no_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"path must be a .rec file, or a folder that contains train.rec. Received"
    ):
        RecordIO(tmp_path / "absent.rec")


def test_a_missing_index(ms1m):
    (ms1m / "train.idx").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"train.idx must have lines of .*, unless index=False. Received: no such file"
    ):
        RecordIO(ms1m, index=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "an empty file"),
        (lambda text: "\n \n", "an empty file|could not convert"),
        (lambda text: text.replace("2\t", "x\t", 1), "could not convert string 'x' to int64 at row 1"),
        (lambda text: text.replace("\t", " "), "could not convert string '1 0'"),
        (lambda text: text.replace("2\t", "2\t7\t", 1), "number of columns changed"),
        (lambda text: text.replace("\n2\t", "\n3\t", 1), "every key only once.*: key 3 more than once"),
        (lambda text: re.sub(r"\n2\t\d+", "\n2\t0", text), "every offset only once.*: offset 0 more than once"),
        (
            lambda text: re.sub(r"\n2\t(\d+)", r"\n2\t\g<1>1", text),
            "multiples of 4 below.*Received: key 2 with offset",
        ),
        (lambda text: re.sub(r"\n2\t(\d+)", r"\n2\t400000000", text), "Received: key 2 with offset 400000000"),
        (lambda text: re.sub(r"\n2\t(\d+)", r"\n2\t-4", text), "Received: key 2 with offset -4"),
        (lambda text: re.sub(r"\n2\t(\d+)", r"\n2\t99999999999999999999999", text), "at row 1"),
        (lambda text: text.partition("\n")[2], "a key with offset 0, .*as the smallest offset"),
    ],
)
def test_a_damaged_index_is_named(change, message, ms1m):
    index = ms1m / "train.idx"
    index.write_text(change(index.read_text()))
    with pytest.raises(ValueError, match=f"train.idx is damaged. Expected: (?=.*index=False).*{message}"):
        RecordIO(ms1m)


def test_an_incomplete_index_is_detected(ms1m):
    index = ms1m / "train.idx"
    index.write_text(re.sub(r"\n5\t\d+", "", index.read_text()))
    with pytest.raises(
        ValueError,
        match=r"train.idx has only part of the records of .*train.rec. Expected: an index with every record.*"
        r"Received: an index with offset \d+ but without \d+",
    ):
        RecordIO(ms1m)
    assert read(RecordIO(ms1m, index=False)) == EXPECTED


@pytest.mark.parametrize("lines", [slice(0, 7), slice(0, None, 2), slice(1, None)])
def test_writing_with_an_incomplete_index_names_the_index(lines, tmp_path):
    records = [(key, recordio_files.payload(image, label, key)) for key, (image, label) in enumerate(EXPECTED)]
    recordio_files.write(tmp_path / "train.rec", records)
    index = tmp_path / "train.idx"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[lines]))
    with pytest.raises(
        ValueError, match=r"train.idx (has only part of the records|is damaged. Expected: a key with offset 0)"
    ):
        write_dataset(RecordIO(tmp_path), tmp_path / "out")


def test_a_property_with_a_wrong_image_size_is_named(tmp_path):
    recordio_files.write(tmp_path / "train.rec", recordio_files.ms1m_layout(PEOPLE), "4,112,96\n")
    with pytest.raises(
        ValueError,
        match=r"image_size of RecordIO\(.*train.rec'\) must be .*`property`. Received: 112 x 96.*most are 32 x 32",
    ):
        write_dataset(RecordIO(tmp_path), tmp_path / "out")


def test_a_property_with_too_few_classes_is_named(tmp_path):
    recordio_files.write(tmp_path / "train.rec", recordio_files.ms1m_layout(PEOPLE), "2,32,32\n")
    faces = RecordIO(tmp_path)
    message = r"train.rec\[7\] at offset \d+ must have a label below 2, .*property.*Received: label=2"
    with pytest.raises(ValueError, match=message):
        faces[6]
    with pytest.raises(
        ValueError, match=r"must have a label below 2, the number of classes in .*property.*Received: label=[23]"
    ):
        write_dataset(faces, tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"labels must have a label below 2, the number of classes in .*property.*Received: label=11"
    ):
        RecordIO(tmp_path, labels=range(12))


def test_a_file_without_readable_records_is_named(tmp_path):
    recordio_files.write(
        tmp_path / "train.rec", [(key, recordio_files.payload(PEOPLE[0][0], -1, key)) for key in (0, 1)]
    )
    with pytest.raises(
        ValueError,
        match=r"RecordIO.* must have readable images with a label in \[0, 0\). Received: 2 .*Received: label=-1",
    ):
        write_dataset(RecordIO(tmp_path), tmp_path / "out")


def test_repr_does_not_read_labels(ms1m):
    assert repr(RecordIO(ms1m)) == f"<RecordIO('{ms1m / 'train.rec'}'): 12 images of 4 classes>"
    (ms1m / "property").unlink()
    faces = RecordIO(ms1m)
    assert repr(faces) == f"<RecordIO('{ms1m / 'train.rec'}'): 12 images>"
    assert faces.num_classes == 4
    assert repr(faces) == f"<RecordIO('{ms1m / 'train.rec'}'): 12 images of 4 classes>"


@pytest.mark.parametrize("text", ["", "4,32", "4,32,x", "0,32,32", "4;32;32", f"{10**20},32,32", "9" * 10**6])
def test_a_damaged_property_is_named(text, ms1m):
    (ms1m / "property").write_text(text)
    with pytest.raises(ValueError, match=r"property is damaged. Expected: `num_classes,height,width` in line 1"):
        RecordIO(ms1m)


def test_only_the_start_of_property_is_read(ms1m):
    with open(ms1m / "property", "w") as file:
        file.write("4,32,32\n")
        file.truncate(2**40)
    assert RecordIO(ms1m).image_size == (32, 32)


DAMAGES = {
    "magic": (0, b"\0", "expected the magic number 0a23d7ce after 0 bytes. Received: 0023d7ce"),
    "kind": (7, b"\x40", "expected a part of kind 0 or 1. Received: 2"),
    "too long": (4, struct.pack("<I", 2**29 - 1), "expected 536870911 more bytes. Received: "),
    "too short": (4, struct.pack("<I", 40), r"expected \d+ bytes. Received: \d+"),
    "many labels": (8, struct.pack("<I", 2**31), "expected 2147483648 labels of 4 bytes. Received: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("index", [None, False])
def test_a_damaged_record_is_named_and_does_not_affect_others(damage, index, ms1m, caplog):
    at, content, message = DAMAGES[damage]
    whole = RecordIO(ms1m, index=False)
    offset = int(whole[4].name.partition("@")[2])
    file = ms1m / "train.rec"
    data = bytearray(file.read_bytes())
    data[offset + at : offset + at + len(content)] = content
    file.write_bytes(data)
    faces = RecordIO(ms1m, index=index)
    assert len(faces) == 12
    with pytest.raises(ValueError, match=rf"train.rec: damaged record at offset {offset}: {message}"):
        faces[4]
    assert faces.labels[4] == -1
    assert read(faces[i] for i in range(12) if i != 4) == [EXPECTED[i] for i in range(12) if i != 4]
    if index is False and damage != "many labels":
        assert f"train.rec: damaged between offsets {offset} and" in caplog.text


def test_padding_that_is_not_zero_is_damage(tmp_path):
    for index, image in enumerate(
        (PEOPLE[0][0] + bytes(-len(PEOPLE[0][0]) % 4) + b"1", recordio_files.MAGIC_BYTES + b"1")
    ):
        path = tmp_path / f"{index}.rec"
        recordio_files.write(path, [(5, recordio_files.payload(image, 0, 5))])
        content = bytearray(path.read_bytes())
        assert content[-4:] == b"1\0\0\0"
        content[-2] = 7
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"offset 0: expected zeros as padding. Received: 000700"):
            RecordIO(path)[0]


def test_a_truncated_file(ms1m):
    file = ms1m / "train.rec"
    whole = RecordIO(ms1m, index=False)
    offset = int(whole[11].name.partition("@")[2])
    file.write_bytes(file.read_bytes()[: offset + 100])
    with pytest.raises(
        ValueError, match=r"train.idx is damaged. Expected: .*multiples of 4 below.*key \d+ with offset \d+"
    ):
        RecordIO(ms1m)
    scanned = RecordIO(ms1m, index=False)
    assert read(scanned[i] for i in range(11)) == EXPECTED[:11]
    with pytest.raises(ValueError, match=rf"damaged record at offset {offset}"):
        scanned[11]


def parts(kind, length, count=1):
    return (MAGIC_BYTES + struct.pack("<I", kind << 29 | length)) * count


def chains(count, end):
    """Returns `count` parts that each start a record and continue with the same chain of `count` parts."""
    return b"".join(parts(1, 8 * (count - 1 - i)) for i in range(count)) + parts(2, 0, count) + end


@pytest.mark.parametrize("count", [500, 4000])
@pytest.mark.parametrize(
    "content",
    {
        "a chain without an end": lambda count: chains(count, b""),
        "a chain with a wrong successor": lambda count: chains(count, parts(3, 0) + b"abcd"),
        "chains that join": lambda count: (parts(1, 8) + parts(2, 8)) * count,
        "lengths beyond the end": lambda count: parts(0, 2**29 - 1, count),
        "gaps": lambda count: (parts(0, 0) + b"abcd") * count,
        "records without a last part": lambda count: parts(1, 0, count),
        "magic numbers at other offsets": lambda count: parts(1, 0) + (b"a" + parts(0, 0)) * count,
    }.values(),
)
def test_a_scan_reads_a_damaged_file_only_a_few_times(content, count, caplog):
    caplog.set_level("ERROR")
    content = content(count)
    reads = []

    def read(offset, num_bytes):
        reads.append(len(content[offset : offset + num_bytes]))
        return content[offset : offset + num_bytes]

    starts, ends = recordio_format.scan(read, len(content), Path("train.rec"))
    assert starts[0] == 0
    assert ends.tolist() == [*starts[1:].tolist(), len(content)]
    assert len(reads) <= 3 * len(content)
    assert sum(reads) <= 20 * len(content)


@pytest.mark.parametrize("num_parts", [15, 16, 17])
def test_a_record_after_a_record_without_a_last_part_is_found(num_parts, tmp_path):
    whole = recordio_files.frame(recordio_files.payload(PEOPLE[0][0], 3, 0))
    (tmp_path / "train.rec").write_bytes(parts(1, 0) + parts(2, 0, num_parts - 1) + whole)
    damaged, found = RecordIO(tmp_path / "train.rec").labels.tolist(), RecordIO(tmp_path / "train.rec")[-1]
    assert damaged == [-1, 3]
    assert found[:2] == (PEOPLE[0][0], 3)
