"""Behavior of the exports to ONNX, OpenVINO and LiteRT: a file exists only if it matches the embedder."""

import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import decode
from conftest import encode
from conftest import make_face
from trained_embedders import trained

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import data
from keras_arcface.backbones import IResNet
from keras_arcface.backbones import MobileFaceNet
from keras_arcface.models import make_embedder
from keras_arcface.serving import export_litert
from keras_arcface.serving import export_onnx
from keras_arcface.serving import export_openvino
from keras_arcface.serving.convert import parity
from keras_arcface.serving.convert.calibration import calibration_images
from keras_arcface.serving.convert.graph import make_graph
from keras_arcface.serving.embedder_facts import embedder_facts

FACES = np.stack([make_face(person, 0) for person in range(64)])
CALIBRATION = np.stack([make_face(person, 1) for person in range(32)])


def run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def run_openvino(path, images):
    import openvino

    core = openvino.Core()
    hint = core.read_model(path).get_rt_info(["keras_arcface", "inference_precision"]).astype(str)
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    assert compiled.input().names == {"images"}
    return {output.any_name: value for output, value in compiled({"images": images}).items()}


def run_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner("serving_default")(images=images)


def metadata_of_onnx(path):
    import onnx

    return next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "keras_arcface")


def metadata_of_openvino(path):
    import openvino

    return openvino.Core().read_model(path).get_rt_info(["keras_arcface", "metadata"]).astype(str)


def metadata_of_litert(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("keras_arcface.json")


RUNTIMES = {
    "onnx": SimpleNamespace(
        export=export_onnx,
        run=run_onnx,
        metadata=metadata_of_onnx,
        suffix=".onnx",
        modules=("onnx", "onnxruntime", "tf2onnx"),
        precisions=("float32", "float16", "int8"),
    ),
    "openvino": SimpleNamespace(
        export=export_openvino,
        run=run_openvino,
        metadata=metadata_of_openvino,
        suffix=".xml",
        modules=("openvino", "nncf"),
        precisions=("float32", "float16", "bfloat16", "int8"),
    ),
    "litert": SimpleNamespace(
        export=export_litert,
        run=run_litert,
        metadata=metadata_of_litert,
        suffix=".tflite",
        modules=("ai_edge_litert", "litert_quantizer"),
        precisions=("float32", "float16", "int8"),
    ),
}
EVERY_PRECISION = [(name, precision) for name, runtime in RUNTIMES.items() for precision in runtime.precisions]


def need(name):
    for module in RUNTIMES[name].modules:
        pytest.importorskip(module, reason=f"{module} is absent")
    return RUNTIMES[name]


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return need(request.param)


# A conversion takes seconds, and the check is the same code for all runtimes. So most tests use ONNX by default.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "litert")]
mostly_onnx = pytest.mark.parametrize("runtime", ["onnx", *SLOW], indirect=True)


@pytest.fixture(scope="module")
def embedder():
    return trained(IResNet((1, 1), width=16, input_shape=(32, 32, 3)))


def expected_of(embedder, images, mirror=False):
    raw = embedder.predict(images, verbose=0)
    if mirror:
        raw = raw + embedder.predict(images[:, :, ::-1], verbose=0)
    norm = np.linalg.norm(raw, axis=1)
    return raw / norm[:, None], norm


def distance(answer, embedder, images, mirror=False):
    """Returns the maximum difference of embeddings, the minimum cosine, the maximum relative difference of norms."""
    embedding, norm = expected_of(embedder, images, mirror)
    assert set(answer) == {"embedding", "norm"}
    assert answer["embedding"].shape == embedding.shape
    assert answer["norm"].shape == norm.shape
    assert answer["embedding"].dtype == answer["norm"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(answer["embedding"], axis=1), 1, atol=1e-6)
    return (
        np.abs(answer["embedding"] - embedding).max(),
        np.sum(answer["embedding"] * embedding, axis=1).min(),
        np.abs(answer["norm"] / norm - 1).max(),
    )


@pytest.mark.parametrize("network", ["IResNet", pytest.param("MobileFaceNet", marks=pytest.mark.slow)])
def test_float32_exports_match_the_embedder_and_describe_themselves(runtime, network, embedder, tmp_path):
    if network == "MobileFaceNet":
        embedder = trained(MobileFaceNet(width=16, input_shape=(32, 32, 3), blocks=(1, 1, 1, 1), stem_groups=4))
    path = runtime.export(embedder, tmp_path / f"model{runtime.suffix}")
    for batch in (1, 7, 64):
        difference, _, norms = distance(runtime.run(path, FACES[:batch]), embedder, FACES[:batch])
        print(f"{network} {runtime.suffix} batch {batch}: embeddings {difference:.1e}, norms {norms:.1e}")
        assert difference < 2e-6
        assert norms < 1e-5
    described = json.loads(runtime.metadata(path))
    assert described == {**embedder_facts(embedder, mirror=False), "precision": "float32"}
    assert (described["image_size"], described["color"], described["embedding_size"]) == ([32, 32], "RGB", 16)
    beside = {".xml": [".bin"]}.get(runtime.suffix, [])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, *map("model{}".format, beside)])


@mostly_onnx
def test_the_graph_can_add_the_mirror_image(runtime, embedder, tmp_path):
    path = runtime.export(embedder, tmp_path / f"model{runtime.suffix}", mirror=True)
    for batch in (1, 7):
        difference, _, _ = distance(runtime.run(path, FACES[:batch]), embedder, FACES[:batch], mirror=True)
        assert difference < 2e-6
    assert json.loads(runtime.metadata(path))["mirrored"] is True


# Measured minimum cosines: 0.9999995, 0.99994 and 0.9986. Sizes are relative to float32 weights.
EXPECTED = {"float16": (0.999999, 0.6), "bfloat16": (0.9995, 0.6), "int8": (0.99, 0.5)}


ROUNDED = [
    pytest.param(name, precision, marks=() if precision == "int8" or name == "onnx" else pytest.mark.slow)
    for name, precision in EVERY_PRECISION
    if precision != "float32"
]


@pytest.mark.parametrize(("name", "precision"), ROUNDED)
def test_rounded_exports_stay_close_and_are_small(name, precision, embedder, tmp_path):
    runtime = need(name)
    path = runtime.export(embedder, tmp_path / f"model{runtime.suffix}", precision, calibration=CALIBRATION)
    difference, cosine, norms = distance(runtime.run(path, FACES), embedder, FACES)
    weights = path.with_suffix(".bin") if runtime.suffix == ".xml" else path
    size = weights.stat().st_size / (4 * embedder.count_params())
    print(f"{runtime.suffix} {precision}: cosine {cosine:.7f}, norms {norms:.1e}, size {size:.2f}")
    least, largest_size = EXPECTED[precision]
    assert cosine > least
    assert difference > 1e-6  # otherwise nothing was rounded
    assert size < largest_size


@mostly_onnx
def test_a_mixed_policy_is_exported_in_full_precision(runtime, embedder, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(embedder.get_weights())
    path = runtime.export(mixed, tmp_path / f"model{runtime.suffix}")
    difference, _, _ = distance(runtime.run(path, FACES), embedder, FACES)
    assert difference < 2e-6
    assert distance(runtime.run(path, FACES), mixed, FACES)[0] > 1e-3  # the mixed model itself rounds


def wrong_colors(images):
    return images[..., ::-1]


def upside_down(images):
    return images[:, ::-1]


@pytest.mark.parametrize(
    ("name", "precision", "fault"),
    [
        ("onnx", "float32", wrong_colors),
        ("onnx", "float32", upside_down),
        ("onnx", "int8", wrong_colors),
        *(
            pytest.param(*case, wrong_colors, marks=pytest.mark.slow)
            for case in (
                ("openvino", "float32"),
                ("openvino", "bfloat16"),
                ("litert", "float32"),
                ("litert", "float16"),
                ("litert", "int8"),
            )
        ),
    ],
)
def test_an_export_that_differs_is_removed(name, precision, fault, embedder, tmp_path, monkeypatch):
    runtime = need(name)

    def faulty(embedder, mirror):
        images = keras.Input((32, 32, 3), dtype="uint8", name="images")
        return keras.Model(images, make_graph(embedder, mirror)(fault(images)))

    monkeypatch.setattr("keras_arcface.serving.convert.conversion.make_graph", faulty)
    with pytest.raises(ValueError, match=r"embeddings differ from the embedder's. Expected: a .*Received: a maximum"):
        runtime.export(embedder, tmp_path / f"model{runtime.suffix}", precision, calibration=CALIBRATION)
    assert not list(tmp_path.iterdir())


@mostly_onnx
@pytest.mark.parametrize("broken", ["cosine", "norm"])
def test_an_export_with_too_much_rounding_is_removed(runtime, broken, embedder, tmp_path, monkeypatch):
    bounds = {"cosine": ("_MIN_COSINE", 0.99999), "norm": ("_MAX_NORM_ERROR", 1e-6)}[broken]
    monkeypatch.setitem(getattr(parity, bounds[0]), "int8", bounds[1])
    with pytest.raises(ValueError, match=r"model\..*, int8, batch of 1: the embeddings differ from the embedder's"):
        runtime.export(embedder, tmp_path / f"model{runtime.suffix}", "int8", calibration=CALIBRATION)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("outputs", "received"),
    [
        ({"embedding": np.full((2, 3), np.nan), "norm": np.ones(2)}, "a maximum difference of nan"),
        (
            {"embedding": np.ones((2, 3)), "norm": np.ones((2, 1))},
            r"Received: \{'embedding': \(1, 3\), 'norm': \(1, 1\)",
        ),
        ({"output_0": np.ones((2, 3))}, r"Received: \{'output_0': \(1, 3\)"),
    ],
)
def test_nan_and_wrong_outputs_are_refused(outputs, received):
    embedder = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])

    def run(images):
        return {name: np.resize(value, (len(images), *value.shape[1:])) for name, value in outputs.items()}

    with pytest.raises(ValueError, match=received):
        parity.check_parity(run, embedder, Path("model.onnx"), "float32", False, None)


@pytest.mark.parametrize("scale", [0, np.inf])
def test_an_embedder_without_usable_embeddings_is_named(scale):
    images = keras.Input((32, 32, 3))
    means = keras.layers.GlobalAveragePooling2D()(images)
    blind = keras.Model(images, keras.layers.Rescaling(scale)(means + 1), name="blind")
    with pytest.raises(ValueError, match=r"embeddings of 'blind' must be finite and not zero.*Received: norms \["):
        parity.check_parity(None, blind, Path("model.onnx"), "float32", False, None)


def test_existing_files_are_not_overwritten(runtime, embedder, tmp_path):
    path = tmp_path / f"model{runtime.suffix}"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=f"output file must not exist. Received: .*model{runtime.suffix}"):
        runtime.export(embedder, path)
    assert path.read_bytes() == b"mine"


def test_invalid_arguments_are_refused(runtime, embedder, tmp_path, monkeypatch):
    path = tmp_path / f"model{runtime.suffix}"
    with pytest.raises(ValueError, match=rf"path must end with {runtime.suffix} .*Received: path='.*model.pb'"):
        runtime.export(embedder, tmp_path / "model.pb")
    known = ", ".join(runtime.precisions)
    with pytest.raises(ValueError, match=f"must be one of {known}. Received: precision='int4'"):
        runtime.export(embedder, path, "int4")
    model = RecognitionModel(embedder, ArcFace(3))
    model.build((None, 32, 32, 3))
    with pytest.raises(
        ValueError, match=r"of a RecognitionModel, pass model.embedder. Received: embedder=<RecognitionModel"
    ):
        runtime.export(model, path)
    with pytest.raises(ValueError, match=r"\(None, 32, 32, 3\) -> \(None, 8, 8, 32\)"):
        runtime.export(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), path)
    anysize = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match=r"known height and width. Received: .*\(None, None, None, 3\)"):
        runtime.export(anysize, path)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"KERAS_BACKEND=tensorflow. Received: backend 'jax'"):
        runtime.export(embedder, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("calibration", "received"),
    [
        (None, "None"),
        (["face.jpg"], "list"),
        (CALIBRATION[:0], r"uint8 \(0, 32, 32, 3\)"),
        (CALIBRATION[0], r"uint8 \(32, 32, 3\)"),
        (CALIBRATION[:, :16], r"uint8 \(32, 16, 32, 3\)"),
        (CALIBRATION / np.float32(255), r"float32 \(32, 32, 32, 3\)"),
    ],
)
def test_int8_requires_calibration_images(runtime, calibration, received, embedder, tmp_path):
    with pytest.raises(
        ValueError, match=rf"calibration.*uint8 RGB images \(n, 32, 32, 3\).*Received: calibration={received}$"
    ):
        runtime.export(embedder, tmp_path / f"model{runtime.suffix}", "int8", calibration=calibration)


@pytest.mark.parametrize(("name", "module"), [(name, module) for name in RUNTIMES for module in RUNTIMES[name].modules])
def test_missing_packages_are_named(name, module, embedder, tmp_path, monkeypatch):
    runtime = need(name)
    for loaded in [other for other in sys.modules if other.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{module}.*pip install 'keras-arcface\[{name}\]'"):
        runtime.export(embedder, tmp_path / f"model{runtime.suffix}", "int8", calibration=CALIBRATION)
    assert not list(tmp_path.iterdir())


def test_calibration_images_are_spread_over_the_source(face_folder):
    source = data.ImageFolder(face_folder)  # 4, 3 and 5 images
    images = calibration_images(source, (32, 32), 3)
    assert images.dtype == np.uint8
    decoded = [np.asarray(data.encoded_images.decode_jpeg_or_png(source[row].image)) for row in (0, 6, 11)]
    np.testing.assert_array_equal(images, decoded)
    assert calibration_images(source, (32, 32)).shape == (12, 32, 32, 3)


def test_unsuitable_calibration_images_are_named(face_folder):
    source = data.ImageFolder(face_folder)
    with pytest.raises(ValueError, match=r"0.png: a calibration image must have 16 x 32 .*Received: 32 x 32"):
        calibration_images(source, (16, 32))
    with pytest.raises(ValueError, match=r"count must be an integer of at least 1. Received: count=0"):
        calibration_images(source, (32, 32), 0)
    (face_folder / "person_1" / "0.png").write_bytes(encode(FACES[0])[:100])
    with pytest.raises(ValueError, match=r"person_1/0.png is not a readable image"):
        calibration_images(source, (32, 32))


def test_calibration_images_of_a_path(face_folder, tmp_path):
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "tfrecord")
    (tmp_path / "list.csv").write_text(f"{face_folder / 'person_0' / '0.png'},0\n")
    (face_folder / "person_2" / ".hidden.png").write_bytes(b"text")
    for path, count in ((face_folder, 12), (face_folder / "person_2", 5), (tmp_path / "tfrecord", 12)):
        assert calibration_images(str(path), (32, 32)).shape == (count, 32, 32, 3)
    (image,) = calibration_images(face_folder / "person_2", (32, 32), count=1)
    np.testing.assert_array_equal(image, decode((face_folder / "person_2" / "0.png").read_bytes()))
    (face_folder / "person_2" / "0.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"person_2/0.png is not a readable image"):
        calibration_images(face_folder / "person_2", (32, 32))
    with pytest.raises(FileNotFoundError, match="absent"):
        calibration_images(tmp_path / "absent", (32, 32))
