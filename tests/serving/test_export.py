import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.serving import export_saved_model

FACES = np.stack([make_face(person, 0) for person in range(6)])


@pytest.fixture(scope="module")
def embedder():
    keras.utils.set_random_seed(1)
    embedder = make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)
    generator = np.random.default_rng(0)
    for layer in embedder.layers:  # statistics as after a training, so that a layer left out would show
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(generator.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, layer.moving_variance.shape))
    return embedder


@pytest.fixture(scope="module")
def saved_model(embedder, tmp_path_factory):
    return export_saved_model(embedder, tmp_path_factory.mktemp("export") / "faces" / "1")


@pytest.fixture(scope="module")
def signatures(saved_model):
    return tf.saved_model.load(str(saved_model)).signatures


def expected_of(embedder, images):
    raw = embedder.predict(images, verbose=0)
    norm = np.linalg.norm(raw, axis=1)
    return raw / norm[:, None], norm


def assert_equals(outputs, embedder, images, rows=slice(None)):
    embedding, norm = expected_of(embedder, images)
    np.testing.assert_allclose(np.asarray(outputs["embedding"])[rows], embedding, atol=1e-6)
    np.testing.assert_allclose(np.asarray(outputs["norm"])[rows], norm, rtol=1e-5)


def serve_bytes(signatures, images):
    return {name: value.numpy() for name, value in signatures["serve_bytes"](image_bytes=tf.constant(images)).items()}


@pytest.mark.parametrize("batch", [1, 6])
def test_serving_default_gives_unit_embeddings_and_their_norm(batch, signatures, embedder):
    outputs = signatures["serving_default"](images=tf.constant(FACES[:batch]))
    assert set(outputs) == {"embedding", "norm"}
    assert_equals(outputs, embedder, FACES[:batch])
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-6)


def test_the_signatures_are_those_of_the_contract(signatures):
    images = signatures["serving_default"].structured_input_signature[1]["images"]
    assert (images.shape.as_list(), images.dtype) == ([None, 32, 32, 3], tf.uint8)
    encoded = signatures["serve_bytes"].structured_input_signature[1]["image_bytes"]
    assert (encoded.shape.as_list(), encoded.dtype) == ([None], tf.string)
    outputs = signatures["serve_bytes"].structured_outputs
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in outputs.items()} == {
        "embedding": ([None, 16], tf.float32),
        "norm": ([None], tf.float32),
        "valid": ([None], tf.bool),
    }


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_bytes_give_what_their_pixels_give(suffix, signatures, embedder):
    encoded = [encode(face, suffix) for face in FACES]
    decoded = np.stack([tf.io.decode_image(image, channels=3) for image in encoded])
    outputs = serve_bytes(signatures, encoded)
    assert outputs["valid"].all()
    assert_equals(outputs, embedder, decoded)


def test_images_of_any_size_are_resized(signatures, embedder):
    large = cv2.resize(FACES[0], (96, 64), interpolation=cv2.INTER_NEAREST)
    outputs = serve_bytes(signatures, [encode(large), encode(FACES[1])])
    assert outputs["valid"].all()
    resized = tf.image.resize(large, (32, 32), antialias=True).numpy().round().clip(0, 255).astype(np.uint8)
    assert_equals(outputs, embedder, np.stack([resized, FACES[1]]))


def test_greyscale_alpha_and_animation_are_read_as_rgb(signatures):
    grey = cv2.imencode(".png", FACES[0][..., 0])[1].tobytes()
    alpha = cv2.imencode(".png", np.concatenate([FACES[0], FACES[0][..., :1]], axis=2))[1].tobytes()
    animation = Path(__file__).with_name("two_frames.gif").read_bytes()
    assert serve_bytes(signatures, [grey, alpha, animation])["valid"].all()


GOOD = [encode(face) for face in FACES]
BAD = {
    "empty": b"",
    "text": b"this is not an image",
    "cut PNG": GOOD[0][: len(GOOD[0]) // 2],
    "cut JPEG": encode(FACES[0], ".jpg")[:200],
    "header of a JPEG only": b"\xff\xd8\xff\xe0",
    "header of a PNG only": b"\x89PNG\r\n\x1a\n",
    "header of a GIF only": b"GIF89a",
    "header of a BMP only": b"BM",
    "flipped bit in a PNG": GOOD[0][:60] + bytes([GOOD[0][60] ^ 16]) + GOOD[0][61:],
    "PNG of 20000 x 20000": GOOD[0][:16] + (20000).to_bytes(4, "big") * 2 + GOOD[0][24:],
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_image_costs_its_own_row_only(bad, signatures):
    clean = serve_bytes(signatures, GOOD)
    outputs = serve_bytes(signatures, [*GOOD[:2], bad, *GOOD[3:]])
    others = np.arange(len(GOOD)) != 2
    np.testing.assert_array_equal(outputs["valid"], others)
    # To the bit: what a row holds must not depend on the others.
    np.testing.assert_array_equal(outputs["embedding"][others], clean["embedding"][others])
    assert not outputs["embedding"][2].any()
    assert outputs["norm"][2] == 0


@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_but_bad_images_and_nothing_at_all(count, signatures):
    outputs = signatures["serve_bytes"](image_bytes=tf.constant(list(BAD.values())[:count], tf.string, shape=(count,)))
    assert outputs["embedding"].shape == (count, 16)
    assert not outputs["valid"].numpy().any()


def through_c_loader(saved_model, signature, tmp_path, **inputs):
    np.savez(tmp_path / "inputs.npz", **inputs)
    command = [sys.executable, str(Path(__file__).with_name("c_loader.py")), str(saved_model), signature]
    done = subprocess.run(
        [*command, str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(tmp_path / "outputs.npz"))


def test_the_cpp_loader_answers_without_python_tensorflow(saved_model, embedder, tmp_path):
    assert_equals(through_c_loader(saved_model, "serving_default", tmp_path, images=FACES), embedder, FACES)


def test_the_cpp_loader_answers_on_bytes_with_one_of_them_broken(saved_model, embedder, tmp_path):
    encoded = [*GOOD[:3], b"broken", *GOOD[3:]]
    inputs = {f"image_bytes_{row}": np.frombuffer(image, np.uint8) for row, image in enumerate(encoded)}
    outputs = through_c_loader(saved_model, "serve_bytes", tmp_path, **inputs)
    good = np.arange(7) != 3
    np.testing.assert_array_equal(outputs["valid"], good)
    assert_equals(outputs, embedder, FACES, rows=good)


WITHOUT_KERAS = """
import json, sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras", "keras_arcface"):
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path = [Hiding(finder) for finder in sys.meta_path]
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
outputs = model.signatures["serving_default"](images=tf.constant(np.load(sys.argv[2])))
assert not {"keras", "keras_arcface"} & set(sys.modules)
print(json.dumps(outputs["embedding"].numpy().tolist()))
"""


def test_tensorflow_answers_where_keras_cannot_be_imported(saved_model, embedder, tmp_path):
    np.save(tmp_path / "faces.npy", FACES)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, str(saved_model), str(tmp_path / "faces.npy")],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    embedding = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(embedding, expected_of(embedder, FACES)[0], atol=1e-6)


def test_nothing_is_overwritten(saved_model, embedder):
    with pytest.raises(FileExistsError, match="Expected: a new or empty directory"):
        export_saved_model(embedder, saved_model)


def test_nothing_else_is_left_beside_it(saved_model):
    assert [path.name for path in saved_model.parent.iterdir()] == ["1"]


def test_a_recognition_model_is_refused_with_advice(embedder, tmp_path):
    model = RecognitionModel(embedder, ArcFace(3))
    model.build((None, 32, 32, 3))
    with pytest.raises(ValueError, match=r"of a RecognitionModel, pass model.embedder"):
        export_saved_model(model, tmp_path / "1")


def test_a_model_that_is_no_embedder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(None, 32, 32, 3\) -> \(None, 8, 8, 32\)"):
        export_saved_model(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), tmp_path / "1")
