import cv2
import numpy as np
import pytest
import rfw_files
from conftest import decode

from keras_arcface._alignment import TEMPLATE
from keras_arcface.data import RfwSet
from keras_arcface.data import align


@pytest.fixture
def rfw(tmp_path):
    rfw_files.write(tmp_path)
    return tmp_path


def test_pairs_and_faces(rfw):
    found = RfwSet(rfw)
    assert repr(found) == f"<RfwSet({str(rfw)!r}): 16 images, 16 pairs of African, Asian, Caucasian, Indian>"
    assert found.groups.tolist() == [group for group in rfw_files.GROUPS for _ in range(4)]
    assert found.same.tolist() == [True, True, False, False] * 4
    # Names in the order of their first pair, and each pair as listed.
    assert found.names[:4] == [f"African/m.af{p}/m.af{p}_000{i}.jpg" for p in (0, 1) for i in (1, 2)]
    assert len(found) == len(set(found.names)) == 16
    assert found.pairs[:4].tolist() == [[0, 1], [2, 3], [0, 2], [1, 3]]
    assert found.pairs[12:].tolist() == [[12, 13], [14, 15], [12, 14], [13, 15]]
    assert found.people[:3].tolist() == [["m.af0", "m.af0"], ["m.af1", "m.af1"], ["m.af0", "m.af1"]]
    assert found.names[13] == "Indian/m.in0/m.in0_0002.jpg"
    faces = found[12:14]
    assert (faces.shape, faces.dtype) == ((2, 112, 112, 3), np.uint8)
    image = decode((rfw / "data" / found.names[13]).read_bytes())
    np.testing.assert_array_equal(faces[1], align(image, np.round(TEMPLATE + 2, 2).astype(np.float32)))
    assert RfwSet(rfw, size=56)[:1].shape == (1, 56, 56, 3)


def test_aligned_faces_need_no_landmarks(rfw):
    for group in rfw_files.GROUPS:
        (rfw / "txts" / group / f"{group}_lmk.txt").unlink()
    message = r"African_lmk.txt must be a list of landmarks of RFW, or pass aligned=True for .* Received: no such file"
    with pytest.raises(FileNotFoundError, match=message):
        RfwSet(rfw)
    found = RfwSet(rfw, aligned=True)
    assert found.pairs[:4].tolist() == [[0, 1], [2, 3], [0, 2], [1, 3]]
    image = decode((rfw / "data" / found.names[5]).read_bytes())
    np.testing.assert_array_equal(found[5:6][0], cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA))
    cropped = cv2.imencode(".png", image[:112, :112, ::-1])[1].tobytes()
    (rfw / "data" / found.names[5]).write_bytes(cropped)
    np.testing.assert_array_equal(found[5:6][0], image[:112, :112])


LANDMARKS = "/test/data/Asian/m.as0/m.as0_0001.jpg\t0" + "\t5" * 10


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        ("pairs", "", ValueError, "Asian_pairs.txt must contain at least one pair. Received: no pairs"),
        ("pairs", "10\t300\n", ValueError, r"Asian_pairs.txt, line 1: expected `person i j` .*Received: '10\\t300'"),
        ("pairs", "m.as0\t1\t2\n\nm.as0\t1\tm.as1\n", ValueError, "Asian_pairs.txt, line 3: expected `person i j`"),
        ("pairs", "..\t1\t2\n", ValueError, "Asian_pairs.txt, line 1: expected `person i j`"),
        (
            "pairs",
            "m.as0\t1\t" + "9" * 10**5,
            ValueError,
            r"line 1: expected .* Received: 'm.as0\\t1\\t9{68,72}\.\.\.$",
        ),
        ("pairs", "m.as0\t1\t2\nm.as0\t1\tm.as1\t3\n", FileNotFoundError, "line 2: expected image .*m.as1_0003.jpg"),
        ("pairs", "m.af0\t1\t2\n", FileNotFoundError, "Asian_pairs.txt, line 1: expected image .*Asian/m.af0"),
        ("pairs", "\udcff", ValueError, "Asian_pairs.txt must be encoded as UTF-8"),
        ("lmk", LANDMARKS + "\n", ValueError, r"Asian_lmk.txt must have landmarks of m.as0_0002.jpg, as .*, line 1$"),
        (
            "lmk",
            LANDMARKS + "\t5\n",
            ValueError,
            "Asian_lmk.txt, line 1: expected a path, a label and 10 finite numbers",
        ),
        ("lmk", LANDMARKS[:-1] + "x\n", ValueError, "Asian_lmk.txt, line 1: expected a path, a label and 10 finite"),
        (
            "lmk",
            f"{LANDMARKS}\n{LANDMARKS[:-1]}nan\n",
            ValueError,
            "line 2: .*10 finite numbers. Received: '/test/data",
        ),
        ("lmk", "m.as0_0001.jpg\n", ValueError, "Asian_lmk.txt, line 1: expected a path, a label"),
    ],
)
def test_invalid_files_are_named(rfw, file, text, error, message):
    (rfw / "txts" / "Asian" / f"Asian_{file}.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(error, match=message):
        RfwSet(rfw)


def test_missing_files_are_named(rfw):
    with pytest.raises(FileNotFoundError, match=r"African_pairs.txt must be a list of pairs of RFW. Received: no such"):
        RfwSet(rfw / "txts", aligned=True)
    (rfw / "txts" / "Indian" / "Indian_pairs.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Indian_pairs.txt must be a list of pairs of RFW. Received: no such"):
        RfwSet(rfw)


def test_damaged_images_and_links_are_named(rfw, tmp_path):
    found = RfwSet(rfw)
    (rfw / "data" / found.names[2]).write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"m.af1_0001.jpg is not a readable image.* Received: 6 bytes"):
        found[2:3]
    outside = tmp_path / "outside.jpg"
    (rfw / "data" / found.names[1]).rename(outside)
    (rfw / "data" / found.names[1]).symlink_to(outside)
    with pytest.raises(ValueError, match=r"m.af0_0002.jpg must be inside of the folder .*follow_links=True"):
        RfwSet(rfw)[1:2]
    assert RfwSet(rfw, follow_links=True)[1:2].shape == (1, 112, 112, 3)
