import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface.data import PairSet


@pytest.fixture
def pairs():
    return PairSet([encode(make_face(i, 0), (".png", ".jpg")[i % 2]) for i in range(6)], [True, False, True])


def test_pairs_survive_saving(pairs, tmp_path):
    pairs.save(tmp_path / "pairs.npz")
    loaded = PairSet.load(tmp_path / "pairs.npz")
    assert loaded.images == pairs.images
    np.testing.assert_array_equal(loaded.same, [True, False, True])
    assert len(loaded) == 3


def test_two_images_per_pair_are_expected(pairs):
    with pytest.raises(ValueError, match=r"two images per pair. Received: 5 images for `same` of shape \(3,\)"):
        PairSet(pairs.images[:5], pairs.same)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pair set at .*absent\.npz"):
        PairSet.load(tmp_path / "absent.npz")


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"", lambda b: b"PK" + b[:50]])
def test_a_damaged_file_is_named(damage, pairs, tmp_path):
    path = tmp_path / "pairs.npz"
    pairs.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"pairs.npz is not a pair set"):
        PairSet.load(path)


def test_a_file_with_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "pairs.npz"
    np.savez(path, bytes=np.array([object()]), ends=np.array([1]), same=np.array([True]))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        PairSet.load(path)
