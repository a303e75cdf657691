"""Embedders as they lie on disk -> functions: `.keras`, a SavedModel, ONNX, OpenVINO, LiteRT."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

COLORS = ("RGB", "BGR")
_ELEMENTS = (np.float32, np.uint8, np.float16)
_ONNX_ELEMENTS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(float16)": np.float16}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a foreign model expects of its pixels: `(x - mean) / std`, in this order of colors.

    This package's models normalize inside and need none of it: they take RGB in 0..255.

    Args:
        color: "RGB" or "BGR".
        mean: what is subtracted; insightface's ONNX files take 127.5.
        std: what it is divided by; 127.5 again.

    Raises:
        ValueError: if the order is another, or `std` is not above 0.
    """

    color: str = "RGB"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if self.color not in COLORS:
            raise ValueError(f"color must be one of {', '.join(COLORS)}. Received: color={self.color!r}")
        if not self.std > 0:
            raise ValueError(f"std must be above 0. Received: std={self.std}")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if self.color == "BGR":
            images = images[..., ::-1]
        if self.mean == 0 and self.std == 1:
            return np.ascontiguousarray(images)
        return ((images - self.mean) / self.std).astype(np.float32)


def load_embedder(path, color: str = "RGB", mean: float = 0.0, std: float = 1.0) -> Callable:
    """Loads an embedder from disk.

    Args:
        path: a `.keras` file of an embedder or of a RecognitionModel, the directory of a SavedModel with a signature
            `serving_default`, or a file of ONNX (`.onnx`), OpenVINO (`.xml`, the `.bin` beside it) or LiteRT
            (`.tflite`) with one input `(n, 3, height, width)` or `(n, height, width, 3)`.
        color, mean, std: what the model expects of its pixels, see `Preprocessing`.

    Returns:
        A function, RGB images in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)` float32. Of a model
        that gives `embedding` and `norm` it is their product, the embedding as it was before.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ModuleNotFoundError: saying what to install, if the file's runtime is absent.
        ValueError: naming the file, if it is of no such kind, or has other inputs or outputs; so does the function,
            for images of another size than the model takes.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no embedder at {path}")
    preprocessing = Preprocessing(color, mean, std)
    loaders = {".keras": _keras, ".onnx": _onnx, ".xml": _openvino, ".tflite": _litert}
    if (path / "saved_model.pb").is_file():
        embed, size = _saved_model(path)
    elif path.suffix in loaders:
        embed, size = loaders[path.suffix](path)
    else:
        raise ValueError(
            f"{path} is no embedder. Expected: a .keras file, the directory of a SavedModel (with saved_model.pb in "
            "it), or a file of ONNX (.onnx), OpenVINO (.xml) or LiteRT (.tflite)"
        )

    def embed_checked(images):
        for expected, received in zip(size, images.shape[1:3], strict=True):
            if isinstance(expected, int) and expected != received:
                raise ValueError(
                    f"{path} takes images of {size[0]} x {size[1]} (height x width). Received: "
                    f"{images.shape[1]} x {images.shape[2]}"
                )
        return embed(preprocessing(images))

    return embed_checked


def as_function(model) -> Callable:
    """A Keras model, or any function of images, as a function that gives a numpy array."""
    if isinstance(model, keras.Model):
        # Under MirroredStrategy each replica gets the whole batch, and the rows of the first one are those that a model
        # without a strategy returns. `predict` would split the batch, and other batch sizes round differently.
        return lambda images: np.asarray(model.predict_on_batch(images)[: len(images)], np.float32)
    return lambda images: np.asarray(keras.ops.convert_to_numpy(model(images)), np.float32)


def _keras(path):
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # of many kinds, some of which say that there is no such file
        raise ValueError(f"{path} is no Keras model that can be loaded: {error}") from error
    inputs = getattr(model, "embedder", model).input_shape
    return as_function(model), tuple(inputs[1:3])


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    if "serving_default" not in loaded.signatures:
        raise ValueError(
            f"{path} has no signature serving_default. Received: signatures {sorted(loaded.signatures) or 'none'}"
        )
    signature = loaded.signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or not _gives_embeddings(outputs):
        raise ValueError(
            f"{path}, serving_default: expected one input, and one output or `embedding` and `norm`. "
            f"Received: inputs {sorted(inputs)}, outputs {sorted(outputs)}"
        )
    name, spec = next(iter(inputs.items()))

    def embed(images):
        answer = signature(**{name: tf.cast(images, spec.dtype)})
        return _embeddings({name: value.numpy() for name, value in answer.items()})

    embed.loaded = loaded  # or its variables would go
    return embed, tuple(spec.shape[1:3]) if spec.shape.rank == 4 else (None, None)


def _onnx(path):
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ONNX files need onnxruntime: pip install 'keras-arcface[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    providers = onnxruntime.get_available_providers()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        if len(session.get_inputs()) > 1:
            session = onnxruntime.InferenceSession(_without_weights_as_inputs(path), options, providers=providers)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # onnxruntime's own, of many kinds
        raise ValueError(f"{path} is no ONNX file that onnxruntime can run: {error}") from error
    inputs = [(entry.name, entry.shape, _ONNX_ELEMENTS.get(entry.type, entry.type)) for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]

    def run(images):
        return dict(zip(outputs, session.run(outputs, {inputs[0][0]: images}), strict=True))

    return _of_arrays(path, inputs, outputs, run)


def _without_weights_as_inputs(path) -> bytes:
    """Old exporters list the weights among the inputs too, and quantizers leave them there, read by nothing."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} needs onnx: pip install 'keras-arcface[onnx]'") from error
    model = onnx.load(path)
    wanted = {name for node in model.graph.node for name in node.input}
    wanted -= {weight.name for weight in model.graph.initializer}
    images = [entry for entry in model.graph.input if entry.name in wanted]
    del model.graph.input[:]
    model.graph.input.extend(images)
    return model.SerializeToString()


def _openvino(path):
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("OpenVINO files need openvino: pip install 'keras-arcface[openvino]'") from error
    core = openvino.Core()
    try:
        model = core.read_model(path)
        # Left alone, OpenVINO rounds to bfloat16 where the machine is quick at that.
        told = ["keras_arcface", "inference_precision"]
        precision = model.get_rt_info(told).astype(str) if model.has_rt_info(told) else "f32"
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    except RuntimeError as error:
        raise ValueError(f"{path} is no model that OpenVINO can run: {error}") from error
    inputs = [
        (
            entry.any_name,
            [side.get_length() if side.is_static else None for side in entry.partial_shape],
            entry.element_type.to_dtype().type,
        )
        for entry in compiled.inputs
    ]
    outputs = [next(iter(entry.names), str(number)) for number, entry in enumerate(compiled.outputs)]

    def run(images):
        return dict(zip(outputs, compiled([images]).values(), strict=True))

    return _of_arrays(path, inputs, outputs, run)


def _litert(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("LiteRT files need ai-edge-litert: pip install 'keras-arcface[litert]'") from error
    try:
        interpreter = Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no model that LiteRT can run: {error}") from error
    inputs = [
        (entry["name"], [None if side == -1 else int(side) for side in entry["shape_signature"]], entry["dtype"])
        for entry in interpreter.get_input_details()
    ]
    images_index = interpreter.get_input_details()[0]["index"]
    # Tensors are named by the converter, the outputs of a signature by who made the model.
    if len(interpreter.get_signature_list()) == 1:
        outputs = interpreter.get_signature_runner().get_output_details()
    else:
        outputs = {entry["name"]: entry for entry in interpreter.get_output_details()}

    def run(images):
        interpreter.resize_tensor_input(images_index, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(images_index, images)
        interpreter.invoke()
        return {name: interpreter.get_tensor(entry["index"]) for name, entry in outputs.items()}

    return _of_arrays(path, inputs, list(outputs), run)


def _gives_embeddings(outputs):
    return len(outputs) == 1 or {"embedding", "norm"} <= set(outputs)


def _embeddings(answer):
    """Of one output, or of `embedding` and `norm`."""
    if len(answer) == 1:
        (rows,) = answer.values()
        return np.asarray(rows, np.float32).reshape(len(rows), -1)
    return np.asarray(answer["embedding"] * answer["norm"][:, None], np.float32)


def _of_arrays(path, inputs, outputs, run):
    """An embedder of a function of arrays, and the size of its images.

    Args:
        path: for the error.
        inputs: of each its name, shape (what is no integer may be anything) and numpy type.
        outputs: their names.
        run: array -> the outputs by name.
    """
    shape = [side if isinstance(side, int) else None for side in inputs[0][1]]
    if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]) or not _gives_embeddings(outputs):
        raise ValueError(
            f"{path}: expected one input (n, 3, height, width) or (n, height, width, 3), and one output or `embedding` "
            f"and `norm`. Received: inputs {[(name, shape) for name, shape, _ in inputs]}, outputs {outputs}"
        )
    dtype = inputs[0][2]
    if dtype not in _ELEMENTS:
        expected = ", ".join(element.__name__ for element in _ELEMENTS)
        raise ValueError(f"{path}: expected an input of one of {expected}. Received: {dtype}")
    channels_first, at_once = shape[1] == 3, shape[0]

    def embed(images):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2) if channels_first else images, dtype=dtype)
        parts = [images] if at_once is None else np.split(images, range(at_once, len(images), at_once))
        rows = []
        for part in parts:
            missing = (at_once or len(part)) - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            rows.append(_embeddings(run(filled))[: len(part)])
        return np.concatenate(rows)

    return embed, tuple(shape[2:4] if channels_first else shape[1:3])
