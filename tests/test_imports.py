"""Which package may import which."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_arcface
from keras_arcface import evaluation
from keras_arcface import gallery
from keras_arcface import serving
from keras_arcface import training

PACKAGE = Path(keras_arcface.__file__).parent

# What a room may import: outside the standard library, and of this package. A file with a line of its own here is
# held to that line instead of its room's.
MAY_KNOW = {
    "beam": {"apache_beam", "tqdm"},
    "beam/inference.py": {"apache_beam", "numpy", "tensorflow"},
    "margins": {"keras"},
    "layers": {"keras", "keras_arcface.margins"},
    "layers/first_loss.py": {"keras", "numpy", "keras_arcface.margins"},
    "layers/distillation.py": {"keras", "numpy", "keras_arcface.margins"},
    "losses": {"keras"},
    "layers/chunked/backends/tensorflow.py": {"tensorflow"},
    "layers/chunked/backends/jax.py": {"jax"},
    "layers/chunked/backends/torch.py": {"torch"},
    "backbones": {"keras", "numpy"},
    "_arguments.py": set(),
    "_choices.py": set(),
    "_alignment.py": {"cv2", "numpy"},
    "_files.py": set(),
    "_html.py": set(),
    "_image_files.py": {"keras_arcface._image_headers"},
    "_image_headers.py": set(),
    "_messages.py": set(),
    "_regular_files.py": set(),
    "_unfinished.py": set(),
    "_weights_files.py": {"keras"},
    "_json.py": set(),
    "_late_names.py": set(),
    "_locks.py": set(),
    "_shard_runner.py": {"tqdm"},
    "_worker_processes.py": {"tensorflow", "tqdm"},
    "_npz.py": {"numpy"},
    "_optional.py": set(),
    "_cpu_training.py": {"keras", "tensorflow"},
    "_private_api.py": {"keras", "tensorflow"},
    "_pixels.py": {"keras", "numpy"},
    "_processor.py": set(),
    "_replicas.py": {"keras", "tensorflow", "numpy"},
    "models.py": {
        *("keras", "numpy", "keras_arcface.layers"),
        *(f"keras_arcface.{name}" for name in ("_cpu_training", "_pixels", "_replicas")),
    },
    "plan": set(),
    "data": {"tensorflow", "numpy", "cv2", "tqdm", "google_crc32c", "keras_arcface._worker_processes"},
    "data/schema.py": {"tensorflow", "numpy", "google"},
    "training": {"keras", "tensorflow", "numpy", "keras_arcface._replicas"},
    "training/checkpoints.py": {"keras", "jax", "numpy", "keras_arcface._replicas"},
    "training/distribution.py": {"keras", "jax", "keras_arcface.layers"},
    "training/progress_bar.py": {"tqdm"},
    "training/training_plot.py": {"numpy", "matplotlib"},
    "training/verification_callback.py": {"keras", "numpy", "keras_arcface.evaluation", "keras_arcface.models"},
    "evaluation": {"numpy", "matplotlib"},
    "evaluation/retrieval.py": {"numpy", "sklearn"},
    "evaluation/embedding.py": {
        *("keras", "tensorflow", "numpy", "tqdm"),
        *("keras_arcface._pixels", "keras_arcface._replicas", "keras_arcface.data"),
    },
    "evaluation/image_inputs.py": {"tensorflow", "numpy", "cv2", "keras_arcface._pixels", "keras_arcface.data"},
    "evaluation/embedding_files.py": {"numpy", "pyarrow"},
    "evaluation/embedding_writer.py": {"numpy", "tqdm", "keras_arcface.data", "keras_arcface._worker_processes"},
    "evaluation/identification.py": {"numpy", "tqdm"},
    "evaluation/overlap_page.py": {"numpy", "keras_arcface.data"},
    "evaluation/report.py": {"numpy", "keras_arcface.data"},
    "evaluation/scores.py": {"keras", "tensorflow", "jax", "torch", "numpy", "tqdm"},
    "faces": {"cv2", "numpy", "tqdm"},
    "faces/mtcnn.py": {"mtcnn", "numpy"},
    "faces/photos.py": {"cv2", "numpy", "pillow_heif"},
    "faces/pipeline.py": {
        *("numpy", "tqdm"),
        *(f"keras_arcface.{name}" for name in ("evaluation", "pretrained", "serving")),
    },
    "faces/scrfd.py": {"cv2", "numpy", "onnxruntime"},
    "gallery": {"numpy", "keras_arcface.evaluation"},
    "gallery/album.py": {"numpy", "cv2", "keras_arcface.evaluation"},
    "gallery/clustering.py": {"numpy", "sklearn", "keras_arcface.evaluation"},
    "gallery/faiss_search.py": {"numpy", "faiss"},
    "gallery/milvus_gallery.py": {"numpy", "pymilvus", "keras_arcface.evaluation"},
    "serving": {"keras", "tensorflow", "numpy"},
    "serving/loading.py": {
        *("keras", "tensorflow", "numpy", "onnx", "onnxruntime", "openvino", "ai_edge_litert"),
        *("keras_arcface._pixels", "keras_arcface._replicas"),
    },
    "serving/embedder_facts.py": {"keras", "numpy", "keras_arcface"},
    "serving/saved_model/export.py": {"keras", "numpy", "keras_arcface.data"},
    "serving/saved_model/decoding.py": {"tensorflow", "keras_arcface.data"},
    "serving/saved_model/warmup.py": {
        "tensorflow",
        "tensorflow_serving",
        "google",
        "numpy",
        "cv2",
        "keras_arcface.data",
    },
    "serving/saved_model/loaders/npz_requests.py": {"numpy"},
    "serving/saved_model/loaders/python.py": {"tensorflow", "npz_requests"},
    "serving/saved_model/loaders/cpp.py": {"numpy", "npz_requests"},
    "serving/convert/calibration.py": {"numpy", "keras_arcface.data"},
    "serving/convert/to_onnx.py": {"keras", "numpy", "onnx", "onnxruntime", "tf2onnx"},
    "serving/convert/onnx_optimization.py": {"numpy", "onnx"},
    "serving/convert/to_openvino.py": {"keras", "numpy", "openvino", "nncf"},
    "serving/convert/to_litert.py": {"keras", "tensorflow", "numpy", "ai_edge_litert", "litert_quantizer"},
    "serving/conformance/check_server.py": {"tqdm"},
    "serving/conformance/sample_files.py": {"numpy", "cv2"},
    "serving/deploy/launching.py": {"yaml"},
    "serving/deploy/text_proto.py": {"google"},
    "serving/client/face_client.py": {"numpy"},
    "serving/client/grpc_transport.py": {"grpc", "google", "tensorflow", "tensorflow_serving", "numpy"},
    "serving/client/rest_transport.py": {"numpy"},
    "recipes": set(),
    "recipes/recipe.py": set(),
    "recipes/files.py": {"tomli_w"},
    "recipes/building.py": {
        *("keras", "keras_arcface.backbones", "keras_arcface.layers", "keras_arcface.losses"),
        *("keras_arcface.models", "keras_arcface.training", "keras_arcface.data"),
    },
    "cli": {
        *("keras", "tensorflow", "numpy", "cv2", "tqdm", "shtab"),
        *(f"keras_arcface.{name}" for name in (*keras_arcface.__all__, "beam")),
    },
    "cli/main.py": {"keras_arcface"},
    "cli/teacher.py": {
        *("keras", "numpy", "keras_arcface._replicas"),
        *(f"keras_arcface.{name}" for name in ("data", "recipes", "serving")),
    },
    "cli/info.py": {"keras", "tensorflow", "jax", "packaging"},
    "__main__.py": {"keras_arcface.cli"},
    "pretrained": {"keras", "numpy", "keras_arcface.backbones", "keras_arcface.models"},
    "pretrained/preset_files.py": {"tomli_w"},
    "pretrained/evaluated.py": {"keras_arcface.evaluation"},
    "pretrained/state_dicts.py": {"safetensors", "numpy"},
    "pretrained/onnx_converter.py": {"keras", "numpy", "keras_arcface._cpu_training"},
    "pretrained/onnx_constants.py": {"onnx", "numpy"},
    "pretrained/onnx_reader.py": {"onnx", "numpy"},
    # It imports all but the core for static type checkers only.
    "__init__.py": {f"keras_arcface.{name}" for name in keras_arcface.__all__ if name.islower()},
}


# Small helpers that every part may import.
SHARED_NAMES = (
    *("_alignment", "_arguments", "_choices", "_files", "_html", "_image_files", "_image_headers"),
    *(
        "_json",
        "_late_names",
        "_locks",
        "_messages",
        "_npz",
        "_optional",
        "_private_api",
        "_processor",
        "_regular_files",
        "_shard_runner",
        "_unfinished",
        "_weights_files",
    ),
)
SHARED = {f"keras_arcface.{name}" for name in SHARED_NAMES}


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


def test_the_public_names_are_there():
    for name in keras_arcface.__all__:
        assert getattr(keras_arcface, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'ArcFaces'"):
        keras_arcface.ArcFaces  # noqa: B018


WITHOUT_TENSORFLOW = [
    "import keras_arcface.plan, keras_arcface.recipes, keras_arcface.faces, keras_arcface.gallery",
    "from keras_arcface.evaluation import StoredEmbeddings, verify, retrieve, pool_templates, plot_verification",
    "from keras_arcface.serving import FaceClient, publish, write_configuration, ConformanceReport",
    "from keras_arcface.cli.main import main; main(['publish', '--list', 'models'])",
    "from keras_arcface.cli.main import main; main(['enroll', 'people.db', '--list'])",
    "from keras_arcface.cli.main import main; main(['plan', '--images', '1e6'])",
]


@pytest.mark.parametrize("code", WITHOUT_TENSORFLOW)
def test_what_needs_no_backend_starts_without_keras_and_tensorflow(code, tmp_path):
    (tmp_path / "models" / "1").mkdir(parents=True)
    gallery.Gallery(tmp_path / "people.db", embedder_sha256="a" * 64).close()
    loaded = "\nimport sys; print('loaded', sorted({'keras', 'tensorflow', 'jax', 'torch'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code + loaded], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("loaded []\n"), done.stdout + done.stderr


def test_jax_trains_where_tensorflow_is_not_installed(tmp_path):
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
from keras_arcface import ArcFace, RecognitionModel, backbones, models, training
backbone = backbones.IResNet((1,), width=8, input_shape=(16, 16, 3))
model = RecognitionModel(models.make_embedder(backbone, dim=4), ArcFace(num_classes=3))
model.compile(optimizer=training.CoupledSGD(0.1))
images, labels = np.zeros((4, 16, 16, 3), "uint8"), np.arange(4) % 3
history = model.fit(images, labels, batch_size=2, verbose=0, callbacks=[training.StopOnNaN()])
print("loss is finite:", np.isfinite(history.history["loss"]).all())
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "loss is finite: True\n", done.stdout + done.stderr


def test_names_that_are_loaded_late_are_public():
    for module in (evaluation, serving, training):
        for name in module.__all__:
            assert getattr(module, name) is not None
        assert dir(module) == sorted(module.__all__)
        with pytest.raises(AttributeError, match=f"'{module.__name__}' has no attribute 'absent'"):
            module.absent  # noqa: B018
