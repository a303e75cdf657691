"""One model definition, one set of weights, two backends, and fresh processes."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface.models import make_embedder

# Runs in a separate process, with the backend of its environment. On JAX it runs as if TensorFlow were not installed.
ANSWER = """
import json
import os
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

if os.environ["KERAS_BACKEND"] == "jax":
    sys.meta_path.insert(0, Hide())
import keras, numpy as np
import keras_arcface

def load_data():
    if keras.backend.backend() == "tensorflow":
        keras_arcface.data
        yield "keras_arcface.data" in sys.modules

packages = {name.split(".")[1] for name in sys.modules if name.startswith("keras_arcface.")}
model_path, functional_path, inputs_path, outputs_path = sys.argv[1:]
inputs = dict(np.load(inputs_path))
images, labels = inputs["images"], inputs["labels"]
model = keras.saving.load_model(model_path)
functional = keras.saving.load_model(functional_path)
outputs = {
    "embeddings": model.predict(images, verbose=0),
    "logits": keras.ops.convert_to_numpy(model.head(inputs["embeddings"], labels)),
    "functional": functional.predict([inputs["embeddings"], labels], verbose=0),
}
history = model.fit(images, labels, batch_size=8, epochs=3, shuffle=False, verbose=0).history
model.save(outputs_path.replace(".npz", ".keras"))
np.savez(outputs_path, loss=history["loss"], centers=keras.ops.convert_to_numpy(model.head.centers), **outputs)
print(json.dumps({
    "backend": keras.backend.backend(),
    "packages": sorted(name for name in packages if name[0] != "_"),
    "tensorflow": "tensorflow" in sys.modules,
    "data is imported": ["keras_arcface.data" in sys.modules, *load_data()],
}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved RecognitionModel, a saved functional model with a head, and the outputs of both."""
    folder = tmp_path_factory.mktemp("saved")
    keras.utils.set_random_seed(5)
    embedder = make_embedder(backbones.IResNet((1,), width=16, input_shape=(32, 32, 3)), dim=16, dropout=0.0)
    model = RecognitionModel(embedder, ArcFace(7, scale=16.0, centers_initializer="glorot_uniform"))
    model.compile(keras.optimizers.SGD(0.003, momentum=0.9))
    model.build((None, 32, 32, 3))
    embeddings, labels = keras.Input((16,)), keras.Input((), dtype="int32")
    functional = keras.Model([embeddings, labels], ArcFace(7, margin=0.3)(keras.layers.Dense(8)(embeddings), labels))
    generator = np.random.default_rng(0)
    inputs = {
        "images": generator.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8),
        "labels": generator.integers(0, 7, 24).astype(np.int32),
        "embeddings": generator.normal(size=(24, 16)).astype(np.float32),
    }
    model.save(folder / "model.keras")
    functional.save(folder / "functional.keras")
    np.savez(folder / "inputs.npz", **inputs)
    answers = {
        "embeddings": model.predict(inputs["images"], verbose=0),
        "logits": keras.ops.convert_to_numpy(model.head(inputs["embeddings"], inputs["labels"])),
        "functional": functional.predict([inputs["embeddings"], inputs["labels"]], verbose=0),
    }
    return folder, answers


def answer_in_a_fresh_process(folder, backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    files = [folder / name for name in ("model.keras", "functional.keras", "inputs.npz", f"{backend}.npz")]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, *map(str, files)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {**np.load(files[-1]), "report": json.loads(done.stdout)}


@pytest.fixture(scope="module")
def answers(saved):
    return {backend: answer_in_a_fresh_process(saved[0], backend) for backend in ("tensorflow", "jax")}


def difference(first, second):
    return np.abs(first - second).max()


def test_importing_the_package_loads_only_the_core(answers):
    for backend, answer in answers.items():
        assert answer["report"] == {
            "backend": backend,
            "packages": ["backbones", "layers", "losses", "margins", "models"],
            "tensorflow": backend == "tensorflow",
            # The first use of a package beyond the core imports it.
            "data is imported": [False, True] if backend == "tensorflow" else [False],
        }


def test_loaded_models_answer_the_same_in_a_fresh_process(saved, answers):
    for name, expected in saved[1].items():
        print(f"{name}: largest difference {difference(answers['tensorflow'][name], expected):.1e}")
        assert difference(answers["tensorflow"][name], expected) < 1e-5, name


def test_tensorflow_and_jax_give_the_same_answers(answers):
    first, second = answers["tensorflow"], answers["jax"]
    for name in ("logits", "functional", "embeddings"):
        print(f"{name}: largest difference {difference(first[name], second[name]):.1e}")
    assert difference(first["logits"], second["logits"]) < 1e-4  # at scale 64
    assert difference(first["functional"], second["functional"]) < 1e-4
    assert difference(first["embeddings"], second["embeddings"]) < 1e-4


def test_tensorflow_and_jax_train_alike(answers):
    first, second = answers["tensorflow"], answers["jax"]
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-3)
    assert first["loss"][-1] < first["loss"][0]
    assert difference(first["centers"], second["centers"]) < 1e-3
