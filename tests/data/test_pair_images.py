import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface import data
from keras_arcface.data.subsets import joined_labels

A, B, C, D, E, F = (encode(make_face(person, 0)) for person in range(6))


def test_genuine_pairs_join_images():
    """A and B, B and C are of one person, and D and E of another one. B and D occur twice."""
    pairs = data.PairSet([A, D, B, C, F, A, D, E, A, B], [False, True, False, True, True])
    images = data.PairImages(pairs)
    assert [record.image for record in images] == [A, D, B, C, F, E]
    assert [record.name for record in images] == [
        *("image 0 (of pair 0)", "image 1 (of pair 0)", "image 2 (of pair 1)"),
        *("image 3 (of pair 1)", "image 4 (of pair 2)", "image 7 (of pair 3)"),
    ]
    assert images.labels.tolist() == [record.label for record in images] == [0, 1, 0, 0, 2, 1]
    assert images.num_classes == 3
    assert images.class_names == ["image 0 (of pair 0)", "image 1 (of pair 0)", "image 4 (of pair 2)"]
    assert repr(images) == "<PairImages: 6 images, 3 classes of 5 pairs>"


def test_a_path_is_not_a_pair_set():
    with pytest.raises(TypeError, match=r"pairs must be a PairSet, .* Received: pairs='lfw.bin'"):
        data.PairImages("lfw.bin")


def test_a_dataset_is_written_once(tmp_path):
    pairs = data.PairSet([A, B, C, D], [True, False])
    info = data.write_dataset(data.PairImages(pairs), tmp_path / "records")
    assert (info.num_examples, info.num_classes) == (4, 3)
    assert data.write_dataset(data.PairImages(pairs), tmp_path / "records") == info
    with pytest.raises(FileExistsError):
        data.write_dataset(data.PairImages(data.PairSet([A, B, C, D], [False, False])), tmp_path / "records")


def test_joined_labels_are_those_of_connected_components():
    rng = np.random.default_rng(0)
    for count in (1, 5, 60, 300):
        pairs = rng.integers(0, count, (count // 2, 2))
        expected = list(range(count))
        for _ in range(count):
            for a, b in pairs.tolist():
                expected[a] = expected[b] = min(expected[a], expected[b])
        assert joined_labels(count, pairs).tolist() == expected
    chain = np.stack([np.arange(1, 1000), np.arange(999)], axis=1)
    assert joined_labels(1000, rng.permutation(chain)).tolist() == [0] * 1000
