import codecs
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface.data import PairSet

IMAGES = [encode(make_face(i, 0), (".png", ".jpg", ".bmp")[i % 3]) for i in range(6)]
SAME = [True, False, True]


@pytest.fixture
def pairs():
    return PairSet(IMAGES, SAME)


def test_pairs_survive_saving_and_loading(pairs, tmp_path):
    pairs.save(tmp_path / "pairs.npz")
    loaded = PairSet.load(tmp_path / "pairs.npz")
    assert loaded.images == pairs.images
    np.testing.assert_array_equal(loaded.same, SAME)
    assert len(loaded) == 3
    assert repr(loaded) == "<PairSet: 3 pairs, 2 of them genuine>"


def test_two_images_per_pair_are_expected(pairs):
    with pytest.raises(
        ValueError, match=r"must contain two images per pair. Received: 5 images for `same` of shape \(3,\)"
    ):
        PairSet(pairs.images[:5], pairs.same)


def test_a_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"path must be a .bin or .npz file of pairs. Received: path=.*absent\.npz"
    ):
        PairSet.load(tmp_path / "absent.npz")


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"", lambda b: b"PK" + b[:50]])
def test_a_damaged_file_is_named(damage, pairs, tmp_path):
    path = tmp_path / "pairs.npz"
    pairs.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"pairs.npz must be a file that PairSet.save wrote. Received: "):
        PairSet.load(path)


def test_a_file_with_pickled_objects_is_rejected(tmp_path):
    path = tmp_path / "pairs.npz"
    np.savez(path, bytes=np.array([object()]), ends=np.array([1]), same=np.array([True]))
    with pytest.raises(ValueError, match=r"'bytes' must have the type uint8.*Received: type dtype\('O'\)"):
        PairSet.load(path)


def test_a_file_that_declares_more_than_its_size_is_rejected(tmp_path):
    path = tmp_path / "pairs.npz"
    np.savez_compressed(path, bytes=np.zeros(10**8, np.uint8), ends=np.array([10**8]), same=np.array([True]))
    with pytest.raises(ValueError, match=r"Received: \d+ bytes of content in a file of \d+ bytes"):
        PairSet.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ends": np.array([1.0])},
            r"'ends' must have the type int64, .*Received: type dtype\('float64'\)",
        ),
        (
            {"ends": np.array([[1]])},
            r"'ends' must have .* shape \(n,\).*Received: .* shape \(1, 1\)",
        ),
        ({"ends": np.zeros(9, "S1")}, r"'ends' must have the type int64.*Received: type dtype\('S"),
        ({"ends": np.array(1)}, r"'ends' must have .* shape \(n,\).*Received: .* shape \(\)"),
        ({"same": np.array(["True"])}, r"'same' must have the type bool.*Received: type dtype\('<U4'\)"),
        ({"bytes": np.zeros((0, 10**15), np.uint8)}, r"'bytes' must have .*shape \(0, 1000000000000000\)"),
    ],
)
def test_other_arrays_in_an_npz_file_are_named(changes, message, tmp_path):
    path = tmp_path / "pairs.npz"
    np.savez(path, **{"bytes": np.zeros(1, np.uint8), "ends": np.array([1]), "same": np.array([True]), **changes})
    with pytest.raises(ValueError, match=rf"pairs.npz must be a file that PairSet.save wrote. Received: .*{message}"):
        PairSet.load(path)


def test_memory_is_not_allocated_for_the_shape_in_a_header(tmp_path):
    path = tmp_path / "pairs.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("bytes.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**45,)})
        file.write(b"few bytes")
    before = peak_memory()
    with pytest.raises(ValueError, match=r"pairs.npz .*'bytes' must have .* shape \(35184372088832,\) in 9 bytes"):
        PairSet.load(path)
    assert peak_memory() - before < 100 << 20


def python_2(images, same, arrays):
    """Returns a pickle as Python 2 wrote it, in protocol 2, with byte strings and old module names of NumPy."""

    def string(data):
        return b"T" + struct.pack("<i", len(data)) + data  # BINSTRING

    def array(data):
        dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xff"
        dtype += b"J\xff\xff\xff\xffK\x00tb"
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + string(b"b") + b"tR"
        return (
            start + b"(K\x01" + b"M" + struct.pack("<H", len(data)) + b"\x85" + dtype + b"\x89" + string(data) + b"tb"
        )

    items = b"".join(array(image) if arrays else string(image) for image in images)
    return b"\x80\x02(]q\x01(" + items + b"e]q\x02(" + b"".join(b"\x88" if s else b"\x89" for s in same) + b"et."


@pytest.mark.parametrize("arrays", [False, True])
def test_a_pickle_of_python_2(arrays, tmp_path):
    content = python_2(IMAGES, SAME, arrays)
    reference = pickle.loads(content, encoding="bytes")
    assert [bytes(item) for item in reference[0]] == IMAGES, "the file of this test is wrong"
    (tmp_path / "lfw.bin").write_bytes(content)
    loaded = PairSet.load(tmp_path / "lfw.bin")
    assert loaded.images == IMAGES
    assert loaded.same.tolist() == SAME


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "item", [bytes, lambda image: np.frombuffer(image, np.uint8), lambda image: np.frombuffer(image, np.uint8).copy()]
)
@pytest.mark.parametrize("same", [list, np.array, tuple, lambda same: [np.bool_(s) for s in same]])
def test_a_pickle_of_python_3(protocol, item, same, tmp_path):
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([item(image) for image in IMAGES], same(SAME)), protocol))
    loaded = PairSet.load(tmp_path / "lfw.bin")
    assert loaded.images == IMAGES
    assert all(type(image) is bytes for image in loaded.images)
    assert loaded.same.tolist() == SAME


def objects(items, shape=(-1,)):
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "bins",
    {
        "columns": lambda images: [np.frombuffer(image, np.uint8).copy()[:, None] for image in images],
        "rows": lambda images: tuple(np.frombuffer(image, np.uint8)[None] for image in images),
        "bytearrays": lambda images: [bytearray(image) for image in images],
        "objects": objects,
        "objects in a column": lambda images: objects([np.frombuffer(i, np.uint8) for i in images], (-1, 1)),
        "objects in a row": lambda images: objects([bytearray(image) for image in images], (1, -1)),
    }.values(),
)
def test_other_types_of_images(bins, protocol, tmp_path):
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((bins(IMAGES), SAME), protocol))
    loaded = PairSet.load(tmp_path / "lfw.bin")
    assert loaded.images == IMAGES
    assert all(type(image) is bytes for image in loaded.images)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "same",
    {
        **{name: lambda same, name=name: np.array(same, name) for name in ("i8", "u1", "i1", "f4", "f8", ">i4", ">f8")},
        "column": lambda same: np.array(same)[:, None],
        "row of floats": lambda same: np.array([same], np.float32),
        "list of np.int64": lambda same: [np.int64(answer) for answer in same],
        "list of np.float32": lambda same: [np.float32(answer) for answer in same],
        "list of floats": lambda same: [float(answer) for answer in same],
        "list of arrays": lambda same: [np.array([answer]) for answer in same],
        "objects": objects,
    }.values(),
)
def test_other_types_of_labels(same, protocol, tmp_path):
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((IMAGES, same(SAME)), protocol))
    assert PairSet.load(tmp_path / "lfw.bin").same.tolist() == SAME


class Call:
    """Object that is pickled as a function call."""

    def __init__(self, function, *arguments, state=None):
        self._reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self._reduced


def with_item(item):
    return pickle.dumps(([IMAGES[0], item], [True]))


def shared(first: bytes, level: bytes) -> bytes:
    """Returns a pickle of `([], [label])` of 300 bytes. Each level has its predecessor twice: 2^28 lists."""
    levels = b"".join(level.replace(b"<", b"h%c" % (n - 1)).replace(b">", b"q%c" % n) for n in range(1, 28))
    return b"\x80\x02]](" + first + b"q\x00" + levels + b"e\x86."


def numpy_array_of(shape, kind, data):
    array = np.zeros(1, np.uint8)
    reconstruct, arguments, _ = array.__reduce__()
    return Call(reconstruct, *arguments, state=(1, shape, np.dtype(kind), False, data))


HOSTILE = {
    "os.system": (with_item(Call(os.system, "touch ran")), "Received: a reference to posix.system"),
    "os.system, by name": (b"cos\nsystem\n(S'touch ran'\ntR.", "Received: a reference to os.system"),
    "eval": (with_item(Call(eval, "open('ran', 'w')")), "Received: a reference to builtins.eval"),
    "eval in Python 2": (b"c__builtin__\neval\n(S'1'\ntR.", "Received: a reference to __builtin__.eval"),
    "a chain of getattr": (
        with_item(Call(getattr, Call(getattr, Call(__import__, "os"), "path"), "join")),
        "Received: a reference to builtins.getattr",
    ),
    "__import__ alone": (with_item(Call(__import__, "os")), "Received: a reference to builtins.__import__"),
    "numpy.load": (with_item(Call(np.load, "x")), "Received: a reference to numpy.load"),
    "numpy's memmap": (with_item(Call(np.memmap, "ran", "u1", "w+")), "Received: a reference to numpy.memmap"),
    "numpy.loads, of old": (b"cnumpy\nloads\n(S'x'\ntR.", "Received: a reference to numpy.loads"),
    "an array of objects": (
        with_item(np.array([Call(os.system, "touch ran")], object)),
        "Received: a reference to posix.system",
    ),
    "an array of plain objects": (with_item(np.array([None, "a"], object)), "an array of type 'O8'"),
    "an array of floats": (with_item(np.zeros(3)), "an array of type 'f8'"),
    "a huge array": (with_item(numpy_array_of((2**44,), "u1", b"")), "expected the bytes of an array of shape"),
    "a huge ndarray": (with_item(Call(np.ndarray, (2**44,))), "TypeError"),
    "nested calls": (with_item(Call(Call, Call(os.system, "touch ran"))), "Received: a reference to "),
    "a call by NEWOBJ": (b"\x80\x02c_codecs\nencode\n(U\x09touch rant\x81.", "operation NEWOBJ at offset 31"),
    "a call by INST": (b"(S'touch ran'\nios\nsystem\n.", "operation INST at offset 14"),
    "a call by OBJ": (b"(c_codecs\nencode\nS'touch ran'\no.", "operation OBJ at offset"),
    "a registered extension": (b"\x80\x02\x82\x01.", "operation EXT1 at offset 2"),
    "a persistent id": (b"Pos.system\n.", "operation PERSID at offset 0"),
    "a dict": (pickle.dumps(({}, [True])), "operation EMPTY_DICT at offset"),
    "an encoding with code": (
        with_item(Call(codecs.encode, "x", "zlib")),
        "expected the encoding latin1. Received: encoding='zlib'",
    ),
    "a changed stand-in": (b"c_codecs\nencode\n}S'x'\nI1\nsb.", "operation EMPTY_DICT"),
    "bytes of 2^62": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", "expected 4611686018427387904 bytes"),
    "a bytearray of 2^62": (b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc.", "expected 4611686018427387904 bytes"),
    "text of 2^31": (b"\x80\x02X" + struct.pack("<I", 2**31) + b"abc.", "expected 2147483648 bytes"),
    "a number of 2^31 digits": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.", "not enough data"),
    "a frame of 2^62": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "cannot unpack non-iterable NoneType"),
    "a memo of 2^31": (b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".", "cannot unpack non-iterable NoneType"),
    "a memo in words": (b"Np99999999999\n.", "cannot unpack non-iterable NoneType"),
    "a number with many digits": (b"I" + b"9" * 100_000 + b"\n.", "ValueError"),
    "a bytearray by number": (with_item(Call(bytearray, 2**44)), "expected bytes. Received: int"),
    "a bytearray with code": (
        with_item(Call(bytearray, "x", "zlib")),
        "expected the encoding latin1. Received: encoding='zlib'",
    ),
    "one bytearray, many times": (
        b"\x80\x05]\x94\x96" + struct.pack("<Q", 10**6) + bytes(10**6) + b"\x94a" + b"h\x01a" * 400 + b"]\x86.",
        "two images per pair. Received: 401 images",
    ),
    "lists in lists": (
        b"(" * 200_000 + b"l" * 200_000 + b".",
        "expected at most 50000 operations in a file of 400001 bytes",
    ),
    "itself": (
        b"\x80\x02]q\x00(h\x00h\x00e.",
        "expected every list and tuple in one place only. Received: a repeated list",
    ),
    "itself, without a memo": (b"\x80\x02]2a.", "operation DUP at offset 3"),
    "itself, as its state": (b"\x80\x02]Nbq\x00h\x00a.", "expected an array. Received: list"),
    "shared lists": (shared(b"]", b"]>(<<e"), "Received: a repeated list"),
    "shared tuples": (shared(b")", b"<<\x86>"), "Received: a repeated tuple"),
    "shared lists as an encoding": (
        b"c_codecs\nencode\nX\x01\x00\x00\x00a" + shared(b"]", b"]>(<<e")[5:-3] + b"\x86R.",
        "Received: a repeated list",
    ),
    "a list as an encoding": (
        b"c_codecs\nencode\nX\x01\x00\x00\x00a](K\x01K\x02e\x86R.",
        "expected a name of at most 40 characters. Received: [1, 2]",
    ),
    "a list as the name of a type": (
        b"cnumpy\ndtype\n](K\x01K\x02e\x85R.",
        "expected a name of at most 40 characters. Received: [1, 2]",
    ),
    "nested lists": (b"]" * 5000 + b"a" * 4999 + b".", "expected at most 10 nested lists and tuples. Received: more"),
    "nested tuples": (b")" + b"\x85" * 5000 + b".", "expected at most 10 nested lists and tuples. Received: more"),
    "more lists than bytes of images": (b"]" * 10**6 + b".", "expected at most 125000 operations"),
    "a label of 10^6 digits": (
        b"\x80\x02]](\x8b" + struct.pack("<i", 10**5) + b"\x7f" * 10**5 + b"e\x86.",
        "label of pair 0 must be True or False. Received: an integer of 799999 bits",
    ),
    "a long name": (b"c" + b"a" * 10**5 + b"\nb\n.", f"Received: a reference to {'a' * 80}....b"),
    "an array of zeros by number": (
        b"\x80\x05\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93(J\x00\x00\x00\x11cnumpy\ndtype\n\x8c\x02u1\x85R"
        b"J\x00\x00\x00\x11\x85\x8c\x01CtR.",
        "expected bytes. Received: int",
    ),
    "copies of copies": (
        b"\x80\x04](c_codecs\nencode\n\x94X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x94"
        b"\x8c\x06latin1\x94" + b"h\x00h\x01h\x02\x86R" * 200 + b"e]\x86.",
        "expected content that is no larger than the file. Received: repeated copies",
    ),
    "another object": (pickle.dumps("a text"), "ValueError"),
    "nothing": (b"", "pickle exhausted before seeing STOP"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_would_execute_or_allocate_something_is_rejected(name, tmp_path, monkeypatch):
    content, message = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.bin").write_bytes(content)
    before = peak_memory()
    with pytest.raises(ValueError, match=r"hostile.bin") as caught:
        PairSet.load(tmp_path / "hostile.bin")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.bin"], "something was run"
    assert peak_memory() - before < 100 << 20
    print(f"{name:30} -> {str(caught.value).partition('hostile.bin ')[2][:120]}")


def peak_memory() -> int:
    """Returns the peak of this process's address space in bytes, including memory that was only reserved."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return int(line.split()[1]) << 10


def test_pickle_itself_would_execute_a_hostile_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["os.system"][0])
    assert (tmp_path / "ran").exists(), "the tests above prove nothing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES[:5], SAME), "two images per pair. Received: 5 images"),
        ((IMAGES, [True, 2, True]), "the label of pair 1 must be True or False. Received: 2"),
        (([*IMAGES[:5], 7], SAME), "image 5 must be bytes or a uint8 array. Received: int"),
        (
            ([*IMAGES[:5], b"text"], SAME),
            "image 5 must be a JPEG, PNG or BMP. Received: 4 bytes that start with b'text'",
        ),
        (([*IMAGES[:5], np.zeros((4, 4), np.uint8)], SAME), r"an array of shape \(4, 4\)"),
        ((IMAGES,), "not enough values to unpack"),
        (
            ([*IMAGES[:5], np.zeros((8, 8, 3), np.uint8)], SAME),
            r"image 5, encoded as .*: expected an array of shape .*Received: an array of shape \(8, 8, 3\)",
        ),
        (
            ([*IMAGES[:5], np.zeros(9, np.float32)], SAME),
            r"image 5, encoded as .*: expected an array of type uint8. Received: an array of type 'f4'",
        ),
        (([*IMAGES[:5], np.zeros(9, np.int8)], SAME), r"image 5, encoded as .*Received: an array of type 'i1'"),
        ((np.array(IMAGES), SAME), r"the images must be a list .*Received: an array of type 'S\d+' and shape \(6,\)"),
        ((objects(IMAGES, (3, 2)), SAME), r"the images must be .*Received: an array of type 'O8' and shape \(3, 2\)"),
        (
            (np.zeros((6, 99), np.uint8), SAME),
            r"the images must be .*Received: an array of type 'u1' and shape \(6, 99\)",
        ),
        ((IMAGES, np.array([0, 1, 2])), "the label of pair 2 must be True or False. Received: 2"),
        ((IMAGES, np.array([0, np.nan, 1])), "the label of pair 1 must be True or False. Received: nan"),
        ((IMAGES, np.array([0.5, 0, 1])), "the label of pair 0 must be True or False. Received: 0.5"),
        (
            (IMAGES, np.eye(3)),
            r"labels of the pairs, booleans .*: expected an array of shape .*Received: an array of shape \(3, 3\)",
        ),
        (
            (IMAGES, np.array(["a", "b", "c"])),
            r"labels of the pairs, booleans .*: expected an array of numbers. Received: an array of type 'U1'",
        ),
        ((IMAGES, [True, np.array([True, False]), True]), "the label of pair 1 must be one value. Received: 2 values"),
        (
            (IMAGES, [True, True, np.array(["a"])]),
            "label of pair 2, True or False: expected an array of numbers. Received: an array of type 'U1'",
        ),
    ],
)
def test_other_content_is_named(content, message, tmp_path):
    (tmp_path / "other.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"other.bin.*{message}"):
        PairSet.load(tmp_path / "other.bin")


def test_time_does_not_depend_on_the_shape_of_a_repeated_array(tmp_path, monkeypatch):
    # 3000 references to one array whose shape has 3000 axes: each reference must not read the whole shape
    content = b"\x80\x02(](cnumpy.core.multiarray\n_frombuffer\n(C\x01a\x8c\x02u1(" + b"K\x01" * 3000
    content += b"t\x8c\x01CtRq\x00" + b"h\x00" * 3000 + b"e]t."
    (tmp_path / "shape.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"shape.bin .*image 0, .*expected an array of shape .*\(1, 1, 1.*\.\.\.$"):
        PairSet.load(tmp_path / "shape.bin")


def test_the_view_1_pairs_of_lfw():
    folder = os.environ.get("KERAS_ARCFACE_TEST_DATA")
    if not folder:
        pytest.skip("KERAS_ARCFACE_TEST_DATA names no folder with real faces")
    pairs = PairSet.load(Path(folder) / "lfw_dev.bin")
    assert (len(pairs), int(pairs.same.sum())) == (1000, 500)
    assert pairs.same[:500].all()
    reference = pickle.load(io.BytesIO((Path(folder) / "lfw_dev.bin").read_bytes()), encoding="bytes")
    assert [bytes(item) for item in reference[0]] == pairs.images


@pytest.fixture
def lfw_folder(tmp_path):
    for person, name in enumerate(("Ann_Lee", "Bo", "Cy")):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for image in range(1, 4):
            suffix = (".jpg", ".png")[image % 2]
            content = encode(make_face(person, image), suffix)
            (tmp_path / "lfw" / name / f"{name}_{image:04d}{suffix}").write_bytes(content)
    return tmp_path / "lfw"


def pairs_txt(tmp_path, text):
    (tmp_path / "pairs.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    return tmp_path / "pairs.txt"


@pytest.mark.parametrize("head", ["2\t1", "2"])
def test_a_list_of_pairs_over_a_folder(head, lfw_folder, tmp_path):
    rows = ["Ann_Lee\t1\t3", "Ann_Lee\t2\tBo\t1", "Cy\t3\t2", "Bo\t2\tCy\t1"]
    rows = rows if head == "2\t1" else rows[::2] + rows[1::2]
    pairs = PairSet.from_pairs_txt(pairs_txt(tmp_path, "\n".join([head, *rows]) + "\n"), lfw_folder)
    assert pairs.same.tolist() == [len(row.split()) == 3 for row in rows]
    first = rows.index("Ann_Lee\t1\t3")
    assert pairs.images[2 * first] == (lfw_folder / "Ann_Lee" / "Ann_Lee_0001.png").read_bytes()
    assert pairs.images[2 * first + 1] == (lfw_folder / "Ann_Lee" / "Ann_Lee_0003.png").read_bytes()
    second = rows.index("Ann_Lee\t2\tBo\t1")
    assert pairs.images[2 * second] == (lfw_folder / "Ann_Lee" / "Ann_Lee_0002.jpg").read_bytes()
    assert pairs.images[2 * second + 1] == (lfw_folder / "Bo" / "Bo_0001.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, "line 1: expected the number of pairs, or of folds and pairs. Received: ''"),
        ("Ann_Lee\t1\t2\n", ValueError, "line 1: expected the number of pairs"),
        ("1\nBo\t1\n", ValueError, r"line 2: expected `person i j` or `person i other j`. Received: 'Bo\\t1'"),
        ("1\nBo\tx\t1\n", ValueError, "line 2: expected `person i j`"),
        ("1\nBo\t1\t" + "9" * 5000, ValueError, r"line 2: expected `person i j` .*Received: 'Bo\\t1\\t9{70,80}\.\.\.$"),
        ("1\n../Bo\t1\t2\n", ValueError, "line 2: expected `person i j`"),
        ("1\n..\t1\t2\n", ValueError, "line 2: expected `person i j`"),
        ("9" * 5000, ValueError, r"line 1: expected the number of pairs.* Received: '9{79}\.\.\.$"),
        ("1\n\udcff", ValueError, r"must be encoded as UTF-8. Received: "),
        (
            "1\nBo\t1\t2\nBo\t1\tCy\t9\n",
            FileNotFoundError,
            r"line 3: expected image .*Cy_0009.jpg, or with another suffix. Received: no such file",
        ),
        (
            "1\nBo\t1\t2\n" + "B" * 5000 + "\t1\tBo\t1\n",
            FileNotFoundError,
            r"line 3: expected image .*B{700,}\.\.\., or",
        ),
        ("2\nBo\t1\t2\nBo\t1\tCy\t2\n", ValueError, "must have 4 pairs according to line 1. Received: 2"),
    ],
)
def test_an_invalid_list_of_pairs_is_named(text, error, message, lfw_folder, tmp_path):
    with pytest.raises(error, match=f"pairs.txt.*{message}"):
        PairSet.from_pairs_txt(pairs_txt(tmp_path, text), lfw_folder)


def test_images_that_tensorflow_cannot_decode_become_png(lfw_folder, tmp_path):
    pixels = make_face(7, 7)[:, :, 0]
    (lfw_folder / "Bo" / "Bo_0007.pgm").write_bytes(cv2.imencode(".pgm", pixels)[1].tobytes())
    pairs = PairSet.from_pairs_txt(pairs_txt(tmp_path, "1\nBo\t1\t7\nBo\t1\tCy\t1\n"), lfw_folder)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(pairs.images[1], np.uint8), -1), pixels)
    pairs.save(tmp_path / "pairs.npz")
    assert PairSet.load(tmp_path / "pairs.npz").images == pairs.images


def test_no_list_of_pairs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be a text file that lists pairs. Received: path="):
        PairSet.from_pairs_txt(tmp_path / "absent.txt", tmp_path)
