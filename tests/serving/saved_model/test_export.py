import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import decode
from conftest import encode
from conftest import make_face
from image_formats import CASES
from image_formats import NOT_SERVED

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.serving import FaceClient
from keras_arcface.serving import check_exportable
from keras_arcface.serving import export_saved_model
from keras_arcface.serving import publish
from keras_arcface.serving import rollback
from keras_arcface.serving.saved_model import loaders
from keras_arcface.serving.saved_model import warmup
from keras_arcface.serving.saved_model.loaders import npz_requests

FACES = np.stack([make_face(person, 0) for person in range(6)])


@pytest.fixture(scope="module")
def embedder():
    keras.utils.set_random_seed(1)
    embedder = make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)
    generator = np.random.default_rng(0)
    for layer in embedder.layers:  # statistics as after training, so that a missing layer is visible
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(generator.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, layer.moving_variance.shape))
    return embedder


@pytest.fixture(scope="module")
def saved_model(embedder, tmp_path_factory):
    return export_saved_model(
        embedder, tmp_path_factory.mktemp("export") / "faces" / "1", compare=True, warmup_batch_sizes=(1, 4)
    )


@pytest.fixture(scope="module")
def signatures(saved_model):
    return tf.saved_model.load(str(saved_model)).signatures


def metadata_of(saved_model):
    return json.loads((saved_model / "assets.extra" / "metadata.json").read_text())


def expected_of(embedder, images, mirror=False):
    raw = embedder.predict(images, verbose=0)
    if mirror:
        raw += embedder.predict(images[:, :, ::-1], verbose=0)
    norm = np.linalg.norm(raw, axis=1)
    return raw / norm[:, None], norm


def assert_equals(outputs, embedder, images, mirror=False):
    embedding, norm = expected_of(embedder, images, mirror)
    np.testing.assert_allclose(outputs["embedding"], embedding, atol=1e-6)
    np.testing.assert_allclose(outputs["norm"], norm, rtol=1e-5)


def serve_bytes(signatures, images):
    return {name: value.numpy() for name, value in signatures["serve_bytes"](image_bytes=tf.constant(images)).items()}


@pytest.mark.parametrize("batch", [1, 6])
def test_serving_default_gives_unit_embeddings_and_their_norm(batch, signatures, embedder):
    outputs = signatures["serving_default"](images=tf.constant(FACES[:batch]))
    assert set(outputs) == {"embedding", "norm"}
    assert_equals(outputs, embedder, FACES[:batch])
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-6)


def test_the_signatures_match_the_contract(signatures):
    images = signatures["serving_default"].structured_input_signature[1]["images"]
    assert (images.shape.as_list(), images.dtype) == ([None, 32, 32, 3], tf.uint8)
    assert set(signatures) == {"serving_default", "serve_bytes", "compare", "describe"}
    encoded = signatures["serve_bytes"].structured_input_signature[1]["image_bytes"]
    assert (encoded.shape.as_list(), encoded.dtype) == ([None], tf.string)
    outputs = signatures["serve_bytes"].structured_outputs
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in outputs.items()} == {
        "embedding": ([None, 16], tf.float32),
        "norm": ([None], tf.float32),
        "valid": ([None], tf.bool),
    }


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_bytes_give_the_embeddings_of_their_pixels(suffix, signatures, embedder):
    encoded = [encode(face, suffix) for face in FACES]
    decoded = np.stack([decode(image) for image in encoded])
    outputs = serve_bytes(signatures, encoded)
    assert outputs["valid"].all()
    assert_equals(outputs, embedder, decoded)


def test_images_of_any_size_are_resized(signatures, embedder):
    large = cv2.resize(FACES[0], (96, 64), interpolation=cv2.INTER_NEAREST)
    outputs = serve_bytes(signatures, [encode(large), encode(FACES[1])])
    assert outputs["valid"].all()
    resized = tf.image.resize(large, (32, 32), antialias=True).numpy().round().clip(0, 255).astype(np.uint8)
    assert_equals(outputs, embedder, np.stack([resized, FACES[1]]))


def test_grayscale_and_alpha_are_read_as_rgb(signatures):
    gray = cv2.imencode(".png", FACES[0][..., 0])[1].tobytes()
    alpha = cv2.imencode(".png", np.concatenate([FACES[0], FACES[0][..., :1]], axis=2))[1].tobytes()
    assert serve_bytes(signatures, [gray, alpha])["valid"].all()


GOOD = [encode(face) for face in FACES]
BAD = {
    "empty": b"",
    "text": b"this is not an image",
    "cut PNG": GOOD[0][: len(GOOD[0]) // 2],
    "cut JPEG": encode(FACES[0], ".jpg")[:200],
    "header of a JPEG only": b"\xff\xd8\xff\xe0",
    "header of a PNG only": b"\x89PNG\r\n\x1a\n",
    "GIF": cv2.imencode(".gif", FACES[0])[1].tobytes(),
    "header of a BMP only": b"BM",
    "flipped bit in a PNG": GOOD[0][:60] + bytes([GOOD[0][60] ^ 16]) + GOOD[0][61:],
    "PNG of 20000 x 20000": GOOD[0][:16] + (20000).to_bytes(4, "big") * 2 + GOOD[0][24:],
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_damaged_image_affects_its_own_row_only(bad, signatures):
    clean = serve_bytes(signatures, GOOD)
    outputs = serve_bytes(signatures, [*GOOD[:2], bad, *GOOD[3:]])
    others = np.arange(len(GOOD)) != 2
    np.testing.assert_array_equal(outputs["valid"], others)
    # Bit for bit: a row must not depend on the others.
    np.testing.assert_array_equal(outputs["embedding"][others], clean["embedding"][others])
    assert not outputs["embedding"][2].any()
    assert outputs["norm"][2] == 0


@pytest.mark.parametrize("count", [0, 1, 5])
def test_batches_of_damaged_images_and_empty_batches(count, signatures):
    outputs = signatures["serve_bytes"](image_bytes=tf.constant(list(BAD.values())[:count], tf.string, shape=(count,)))
    assert outputs["embedding"].shape == (count, 16)
    assert not outputs["valid"].numpy().any()


def through(loader, saved_model, tmp_path, requests):
    script = Path(loaders.__file__).with_name(f"{loader}.py")
    npz_requests.save(tmp_path / "requests.npz", requests)
    command = [sys.executable, str(script), str(saved_model), str(tmp_path / "requests.npz")]
    done = subprocess.run([*command, str(tmp_path / "answers.npz")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [answer for _, answer in npz_requests.load(tmp_path / "answers.npz")]


@pytest.mark.parametrize("loader", ["python", "cpp"])
def test_answers_of_a_process_without_keras(loader, saved_model, signatures, embedder, tmp_path):
    encoded = [*GOOD[:3], b"broken", *GOOD[3:]]
    requests = [
        ("serving_default", {"images": FACES}),
        ("serve_bytes", {"image_bytes": encoded}),
        ("compare", {"images_a": FACES, "images_b": FACES[::-1]}),
        ("describe", {"request": [b"", b""]}),
        ("serve_bytes", {"image_bytes": list(CASES.values())}),
        ("serving_default", {"images": FACES[:0]}),
    ]
    images, decoded, compared, described, formats, empty = through(loader, saved_model, tmp_path, requests)
    assert (empty["embedding"].shape, empty["norm"].shape) == ((0, 16), (0,))
    assert dict(zip(CASES, formats["valid"], strict=True)) == {name: name not in NOT_SERVED for name in CASES}
    expected = serve_bytes(signatures, list(CASES.values()))["embedding"]
    np.testing.assert_allclose(formats["embedding"], expected, atol=1e-6)
    assert_equals(images, embedder, FACES)
    good = np.arange(7) != 3
    np.testing.assert_array_equal(decoded["valid"], good)
    assert_equals({name: value[good] for name, value in decoded.items()}, embedder, FACES)
    expected, _ = expected_of(embedder, FACES)
    np.testing.assert_allclose(compared["cosine"], np.sum(expected * expected[::-1], axis=1), atol=1e-6)
    assert described["metadata"] == [json.dumps(metadata_of(saved_model)).encode()] * 2


WRONG = {
    "one row without its axis": ("serving_default", {"images": FACES[0]}),
    "no image at all": ("serving_default", {"images": np.zeros(2, np.uint8)}),
    "another shape of the same area": ("serving_default", {"images": FACES.reshape(6, 16, 64, 3)}),
    "larger images": ("serving_default", {"images": np.zeros((2, 64, 64, 3), np.uint8)}),
    "gray images": ("serving_default", {"images": FACES[..., :1]}),
    "more on one side": ("compare", {"images_a": FACES, "images_b": FACES[:1]}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_invalid_inputs_are_refused_without_a_crash(wrong, saved_model, tmp_path):
    signature, inputs = WRONG[wrong]
    with pytest.raises(AssertionError, match=r"not compatible with expected shape|assertion failed"):
        through("cpp", saved_model, tmp_path, [(signature, inputs)])


def test_variables_are_frozen_by_default(saved_model):
    assert not tf.saved_model.load(str(saved_model)).variables
    description = metadata_of(saved_model)
    assert (description["mirrored"], description["variables"]) == (False, "frozen")


@pytest.mark.parametrize(("freeze", "mirror"), [(False, False), (False, True), (True, True)])
def test_variables_may_be_kept_and_mirror_images_added(freeze, mirror, embedder, tmp_path):
    options = {"mirror": mirror, "freeze": freeze, "warmup_batch_sizes": (), "check": False}
    directory = export_saved_model(embedder, tmp_path / "1", **options)
    loaded = tf.saved_model.load(str(directory))
    assert len(loaded.variables) == (0 if freeze else len(embedder.variables))
    for signature, inputs in (
        ("serving_default", {"images": tf.constant(FACES)}),
        ("serve_bytes", {"image_bytes": tf.constant(GOOD)}),
    ):
        outputs = {name: value.numpy() for name, value in loaded.signatures[signature](**inputs).items()}
        assert_equals(outputs, embedder, FACES, mirror)
    assert set(loaded.signatures) == {"serving_default", "serve_bytes", "describe"}
    description = metadata_of(directory)
    assert (description["mirrored"], description["variables"]) == (mirror, "frozen" if freeze else "kept")


def test_an_export_is_published_served_and_rolled_back(saved_model, embedder, tmp_path):
    server_double = pytest.importorskip("server_double", reason="the double needs tensorflow-serving-api")
    base = tmp_path / "models" / "faces"
    published = publish(saved_model, base)
    damaged = shutil.copytree(saved_model, tmp_path / "damaged")
    answers = npz_requests.load(damaged / "assets.extra" / "warmup_answers.npz")
    answers[0][1]["embedding"] *= -1
    npz_requests.save(damaged / "assets.extra" / "warmup_answers.npz", answers)
    with pytest.raises(
        ValueError, match=r"damaged failed the check and is not published: .*request 0 \(serving_default\)"
    ):
        publish(damaged, base)
    assert publish(saved_model, base, check=False) == base / "2"
    with server_double.ServerDouble(base.parent, poll_seconds=0.05) as double, FaceClient(double.grpc) as client:
        found = client.embed(GOOD)
        assert found.version == 2
        np.testing.assert_allclose(found.embedding, expected_of(embedder, FACES)[0], atol=1e-6)
        assert rollback(base) == published
        deadline = time.monotonic() + 20
        while client.embed(GOOD[:1]).version != 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.embed(FACES).version == 1


def test_frozen_weights_are_written_once(saved_model, embedder):
    weights = sum(weight.numpy().nbytes for weight in embedder.weights)
    assert (saved_model / "saved_model.pb").stat().st_size < 1.5 * weights + 500_000


def test_the_graph_needs_no_python(saved_model):
    graph = (saved_model / "saved_model.pb").read_bytes()
    assert not [name for name in (b"PyFunc", b"EagerPyFunc", b"PyFuncStateless") if name in graph]


def test_a_missing_package_for_warmup_requests_leads_to_a_warning(embedder, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    directory = export_saved_model(embedder, tmp_path / "1", check=False)
    assert metadata_of(directory)["warmup_batch_sizes"] == [1, 2, 4, 8, 16, 32]
    assert "pip install 'keras-arcface[serving]'" in caplog.text
    assert not (directory / "assets.extra" / "tf_serving_warmup_requests").exists()


@pytest.mark.parametrize(("sizes", "message"), [((0,), "must be positive integers"), (range(1, 400), "at most 1000")])
def test_invalid_warmup_sizes_are_refused(sizes, message, embedder, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_saved_model(embedder, tmp_path / "1", warmup_batch_sizes=sizes)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
def test_the_graph_does_not_require_xla(freeze, tmp_path):
    network = backbones.MobileFaceNet(width=16, input_shape=(32, 32, 3), blocks=(1, 1, 1, 1), stem_groups=4)
    grouped = make_embedder(network, dim=8)
    directory = export_saved_model(grouped, tmp_path / "1", freeze=freeze, warmup_batch_sizes=(), check=False)
    assert b"_XlaMustCompile" not in (directory / "saved_model.pb").read_bytes()
    outputs = tf.saved_model.load(str(directory)).signatures["serving_default"](images=tf.constant(FACES))
    assert_equals(outputs, grouped, FACES)


@pytest.mark.slow
def test_an_export_after_training_in_bfloat16_answers_in_float32(tmp_path):
    code = (
        "import sys; from keras_arcface import backbones, serving, training\n"
        "from keras_arcface.models import make_embedder\n"
        "training.use_precision('onednn_bfloat16')\n"
        "embedder = make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)\n"
        "serving.export_saved_model(embedder, sys.argv[1], warmup_batch_sizes=(4,))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "1")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_export_with_different_outputs_is_removed(embedder, tmp_path, monkeypatch):
    expected = warmup.expected_outputs
    monkeypatch.setattr(warmup, "expected_outputs", lambda *a: [_turned(answer) for answer in expected(*a)])
    with pytest.raises(ValueError, match=r"request 0 \(serving_default\): 'embedding' must be within 0.0001"):
        export_saved_model(embedder, tmp_path / "faces" / "1", warmup_batch_sizes=(2,))
    assert not list((tmp_path / "faces").iterdir())


def _turned(answer):
    return {name: value[:, ::-1] if name == "embedding" else value for name, value in answer.items()}


def test_existing_exports_are_not_overwritten(saved_model, embedder):
    with pytest.raises(FileExistsError, match="directory must not exist or must be empty"):
        export_saved_model(embedder, saved_model)


def test_a_link_is_refused_before_the_export(embedder, tmp_path):
    (tmp_path / "empty").mkdir()
    for target in ("empty", "nothing"):
        (tmp_path / target).with_suffix(".link").symlink_to(target)
        with pytest.raises(FileExistsError, match=f"must not exist or must be empty. Received: .*{target}.link"):
            check_exportable(embedder, tmp_path / f"{target}.link")


def test_no_temporary_files_remain(saved_model):
    assert [path.name for path in saved_model.parent.iterdir()] == ["1"]


def test_check_exportable_raises_the_errors_of_the_export(saved_model, embedder, tmp_path):
    check_exportable(embedder, tmp_path / "models" / "faces" / "1", "five_points")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for arguments, kind, message in (
        ((embedder, saved_model), FileExistsError, "directory must not exist or must be empty"),
        (
            (embedder, tmp_path / "file" / "1"),
            PermissionError,
            r"must be in a writable directory. Received: directory='.*1', in .*file",
        ),
        ((embedder, tmp_path / "1", "eyes"), ValueError, "alignment must be"),
        ((RecognitionModel(embedder, ArcFace(3)), tmp_path / "1"), ValueError, r"pass model.embedder"),
    ):
        with pytest.raises(kind, match=message):
            check_exportable(*arguments)


def test_a_recognition_model_is_refused_with_advice(embedder, tmp_path):
    model = RecognitionModel(embedder, ArcFace(3))
    model.build((None, 32, 32, 3))
    with pytest.raises(ValueError, match=r"of a RecognitionModel, pass model.embedder"):
        export_saved_model(model, tmp_path / "1")


def test_a_model_without_embeddings_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(None, 32, 32, 3\) -> \(None, 8, 8, 32\)"):
        export_saved_model(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), tmp_path / "1")
