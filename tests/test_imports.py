"""Which room may know which, and that the core stands without TensorFlow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_arcface

PACKAGE = Path(keras_arcface.__file__).parent

# What a room may import: outside the standard library, and of this package. A file with a line of its own here is
# held to that line instead of its room's.
MAY_KNOW = {
    "margins": {"keras"},
    "layers": {"keras", "keras_arcface.margins"},
    "losses": {"keras"},
    "layers/kernels/tensorflow.py": {"tensorflow"},
    "layers/kernels/jax.py": {"jax"},
    "layers/kernels/torch.py": {"torch"},
    "backbones": {"keras"},
    "_arguments.py": set(),
    "_files.py": set(),
    "_optional.py": set(),
    "_cpu_training.py": {"keras", "tensorflow"},
    "_private_api.py": {"keras", "tensorflow"},
    "_pixels.py": {"keras", "numpy"},
    "_replicas.py": {"keras", "tensorflow", "numpy"},
    "models.py": {"keras", "numpy", *(f"keras_arcface.{name}" for name in ("_cpu_training", "_pixels", "_replicas"))},
    "plan.py": set(),
    "data": {"tensorflow", "numpy", "cv2", "tqdm", "google_crc32c"},
    "training": {"keras", "tensorflow", "numpy", "keras_arcface.evaluation"},
    "training/curves.py": {"keras", "tensorflow", "numpy", "tqdm", "matplotlib", "keras_arcface.training"},
    "training/checkpoints.py": {"keras", "jax", "numpy", "keras_arcface.training"},
    "training/distribution.py": {"keras", "jax"},
    "training/replica_check.py": {"keras", "tensorflow", "numpy", "keras_arcface._replicas"},
    "training/sanity.py": {"keras", "numpy", "keras_arcface.layers", "keras_arcface.margins"},
    "evaluation": {"numpy", "matplotlib"},
    "evaluation/retrieval.py": {"numpy", "sklearn"},
    "evaluation/embedding.py": {
        *("keras", "tensorflow", "numpy", "tqdm"),
        *("keras_arcface._pixels", "keras_arcface._replicas", "keras_arcface.data"),
    },
    "evaluation/image_inputs.py": {"tensorflow", "numpy", "cv2", "keras_arcface._pixels", "keras_arcface.data"},
    "evaluation/report.py": {"numpy", "keras_arcface.data"},
    "evaluation/scores.py": {"keras", "tensorflow", "jax", "torch", "numpy", "tqdm"},
    "serving": {"keras", "tensorflow", "numpy"},
    "serving/loading.py": {
        *("keras", "tensorflow", "numpy", "onnx", "onnxruntime", "openvino", "ai_edge_litert"),
        "keras_arcface._replicas",
    },
    "serving/saved_model/export.py": {"keras", "numpy", "keras_arcface.data"},
    "serving/saved_model/metadata.py": {"keras", "numpy", "keras_arcface"},
    "serving/saved_model/decoding.py": {"tensorflow", "keras_arcface.data"},
    "serving/saved_model/warmup.py": {"tensorflow", "tensorflow_serving", "numpy", "cv2", "keras_arcface.data"},
    "serving/saved_model/loaders/npz_requests.py": {"numpy"},
    "serving/saved_model/loaders/python.py": {"tensorflow", "npz_requests"},
    "serving/saved_model/loaders/cpp.py": {"numpy", "npz_requests"},
    "serving/convert/graph.py": {"keras", "tensorflow", "numpy", "keras_arcface.data"},
    "serving/convert/to_onnx.py": {"keras", "onnx", "onnxruntime", "tf2onnx"},
    "serving/convert/onnx_optimization.py": {"numpy", "onnx"},
    "serving/convert/to_openvino.py": {"keras", "numpy", "openvino", "nncf"},
    "serving/convert/to_litert.py": {"keras", "tensorflow", "ai_edge_litert", "litert_quantizer"},
    "serving/client/face_client.py": {"numpy"},
    "serving/client/grpc_transport.py": {"grpc", "tensorflow", "tensorflow_serving", "numpy"},
    "serving/client/rest_transport.py": {"requests", "urllib3", "numpy"},
    "pretrained": {"keras", "numpy", "keras_arcface.backbones", "keras_arcface.models"},
    "pretrained/state_dicts.py": {"torch", "safetensors", "numpy"},
    "pretrained/onnx_reader.py": {"onnx", "numpy"},
    "__init__.py": {
        "keras_arcface.margins",
        "keras_arcface.layers",
        "keras_arcface.losses",
        "keras_arcface.backbones",
        "keras_arcface.models",
    },
}


# Small helpers that every part may import.
SHARED = {f"keras_arcface.{name}" for name in ("_arguments", "_files", "_optional", "_private_api")}


def rooms_of(file: Path):
    """The line that a file is held to, and its room."""
    relative = file.relative_to(PACKAGE).as_posix()
    room = relative.split("/")[0]
    return (relative if relative in MAY_KNOW else room), room


def imports_of(file: Path):
    """Everything that a file imports, late imports included, a room of this package by the room's name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module]
            if node.module == "keras_arcface":
                names = [f"keras_arcface.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield ".".join(parts[:2]) if parts[0] == "keras_arcface" else parts[0]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_room_knows_only_what_it_may(file):
    held_to, room = rooms_of(file)
    own = f"keras_arcface.{room.removesuffix('.py')}"
    allowed = MAY_KNOW[held_to] | set(sys.stdlib_module_names) | {own} | SHARED
    unexpected = set(imports_of(file)) - allowed
    assert not unexpected, f"{file.relative_to(PACKAGE)} imports {sorted(unexpected)}"


WITHOUT_TENSORFLOW = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
import keras, numpy as np
from keras_arcface import ArcFace, CosFace, RecognitionModel, SphereFace, backbones, margins
from keras_arcface.models import make_embedder

model = RecognitionModel(make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=8), ArcFace(3))
model.compile("sgd")
images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("uint8")
model.fit(images, np.array([0, 1, 2, 0]), batch_size=4, verbose=0)
model.save(sys.argv[1])
loaded = keras.saving.load_model(sys.argv[1])
assert np.array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
assert "tensorflow" not in sys.modules
print("trained on", keras.backend.backend())
"""


def run_python(code, *arguments, backend):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )


def test_the_core_trains_where_there_is_no_tensorflow(tmp_path):
    pytest.importorskip("jax", reason="the core without TensorFlow runs on JAX, which is absent")
    done = run_python(WITHOUT_TENSORFLOW, tmp_path / "model.keras", backend="jax")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trained on jax\n"


def test_importing_the_package_loads_the_core_alone():
    code = (
        "import sys, keras_arcface;"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('keras_arcface.')};"
        "print(sorted(room for room in rooms if room[0] != '_')); keras_arcface.data;"
        "print('keras_arcface.data' in sys.modules)"
    )
    done = run_python(code, backend="tensorflow")
    assert done.stdout.splitlines() == ["['backbones', 'layers', 'losses', 'margins', 'models']", "True"], done.stderr


def test_the_public_names_are_there():
    for name in keras_arcface.__all__:
        assert getattr(keras_arcface, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'ArcFaces'"):
        keras_arcface.ArcFaces  # noqa: B018
