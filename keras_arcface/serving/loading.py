"""Loading of embedders from Keras, SavedModel, ONNX, OpenVINO and LiteRT files."""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_number
from keras_arcface._optional import optional_import
from keras_arcface._pixels import check_pixels
from keras_arcface._pixels import to_uint8
from keras_arcface._pixels import warn_if_unit_range
from keras_arcface._replicas import predict_on_batch

_INPUT_DTYPES = (np.float32, np.uint8, np.float16)
_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(float16)": np.float16}


class _Model(NamedTuple):
    """Model in memory.

    Attributes:
        embed: function from preprocessed images to embeddings.
        size: height and width of the images that the model accepts. None: any height or width.
        dtype: type of its input. All exports of this package have uint8.
    """

    embed: Callable[[np.ndarray], np.ndarray]
    size: tuple[int | None, int | None]
    dtype: Any


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of pixels for a third-party model: `(x - mean) / std`.

    The models of this package take RGB in 0..255 and normalize inside the graph, so they require the defaults.
    `load_embedder` has the same arguments and applies the preprocessing itself.

    Args:
        color: channel order that the model expects, `"RGB"` or `"BGR"`.
        mean: value that is subtracted from each pixel. InsightFace's ONNX files expect 127.5.
        std: divisor of each pixel. InsightFace's ONNX files expect 127.5.

    Raises:
        ValueError: if `color` is unknown or `std` is not above 0.

    Examples:
        >>> preprocess = Preprocessing(color="BGR", mean=127.5, std=127.5)
        >>> red = np.array([[[[255, 0, 0]]]], "uint8")
        >>> preprocess(red)
        array([[[[-1., -1.,  1.]]]], dtype=float32)
    """

    color: str = "RGB"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check_choice("color", self.color, ("RGB", "BGR"))
        check_number("std", self.std, lambda std: std > 0, "above 0")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if self.color == "BGR":
            images = images[..., ::-1]
        if self.mean == 0 and self.std == 1:
            return np.ascontiguousarray(images)
        return ((images - self.mean) / self.std).astype(np.float32)


def load_embedder(
    path: str | os.PathLike, color: str = "RGB", mean: float = 0.0, std: float = 1.0
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an embedder from disk, as a function of images.

    The function has the same meaning for every format, so that `evaluation.embed_images` and `evaluation.embed_pairs`
    can compare a Keras model with its exports and with models of other packages.

    A model is a program: load it from a source that you trust. The checks below find mistakes, not attacks.

    Args:
        path: path of a `.keras` file of an embedder or of a `RecognitionModel`, of the directory of a SavedModel with
            the signature `serving_default`, or of an ONNX (`.onnx`), OpenVINO (`.xml`, next to its `.bin`) or LiteRT
            (`.tflite`) file with one input `(n, 3, height, width)` or `(n, height, width, 3)`.
        color: channel order that the model expects, `"RGB"` or `"BGR"`.
        mean: value that is subtracted from each pixel before the model. InsightFace's ONNX files expect 127.5.
        std: divisor of each pixel. InsightFace's ONNX files expect 127.5.

    Returns:
        Function that maps RGB images in 0..255 `(batch, height, width, 3)` to embeddings `(batch, dim)` float32. If
        the model returns `embedding` and `norm`, the function returns their product, the unnormalized embedding.

    Raises:
        FileNotFoundError: if `path` does not exist.
        ModuleNotFoundError: if the runtime for this file is not installed. The message says what to install.
        ValueError: if the file is damaged or its format is unknown, its inputs or outputs are not those of an embedder,
            `color` is unknown, `std` is not above 0, or `mean` or `std` is given for a model with an input of type
            uint8, which normalizes pixels itself. The returned function also raises it, for images of a shape or size
            that the model does not accept, and for pixels outside of 0..255. For a model with an input of type uint8,
            pixels must be whole numbers.

    Warns:
        UserWarning: if all pixels given to the returned function are in 0..1 or -1..1; at most once per file.

    Examples:
        >>> embedder.save("embedder.keras")
        >>> embed = load_embedder("embedder.keras")
        >>> embed(images).shape
        (12, 8)

        A SavedModel returns L2-normalized embeddings and norms. The function returns their products, so that a file and
        its export have the same embeddings:

        >>> exported = load_embedder("exported")
        >>> norms = np.linalg.norm(exported(images), axis=1)
        >>> bool(np.allclose(norms, 1.0))
        False

        A model of InsightFace, which normalizes pixels outside of the graph:

            embed = load_embedder("w600k_r50.onnx", mean=127.5, std=127.5)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing embedder. Received: path={str(path)!r}")
    preprocess = Preprocessing(color, mean, std)
    loaders = {".keras": _load_keras, ".onnx": _load_onnx, ".xml": _load_openvino, ".tflite": _load_litert}
    if (path / "saved_model.pb").is_file():
        model = _load_saved_model(path)
    elif path.suffix in loaders:
        model = loaders[path.suffix](path)
    else:
        raise ValueError(
            f"path must be a .keras, .onnx (ONNX), .xml (OpenVINO) or .tflite (LiteRT) file, or the directory of a "
            f"SavedModel, which contains saved_model.pb. Received: path={str(path)!r}"
        )

    takes_uint8 = model.dtype == np.uint8
    if takes_uint8 and (mean, std) != (0, 1):
        raise ValueError(
            f"{path} has an input of type uint8 and normalizes pixels itself, so mean must be 0 and std must be 1. "
            f"Received: mean={mean}, std={std}"
        )

    def embed_checked(images: np.ndarray) -> np.ndarray:
        images = check_pixels(images, str(path))
        images = to_uint8(images, str(path)) if takes_uint8 else images
        warn_if_unit_range(images, f"the images given to {path}")
        received = images.shape[1:3]
        if any(side not in (None, other) for side, other in zip(model.size, received, strict=True)):
            expected = " x ".join("any" if side is None else str(side) for side in model.size)
            raise ValueError(
                f"{path} expects images of {expected} pixels (height x width). Received: {received[0]} x {received[1]}"
            )
        return model.embed(preprocess(images))

    return embed_checked


def load_keras_model(path: Path) -> Any:
    """Loads a `.keras` file, without its optimizer.

    Raises:
        ValueError: if Keras cannot load the file. The message names the file.
    """
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises errors of many types, and some claim that the file does not exist.
        raise ValueError(f"{path}: expected a model that Keras can load. Received: {error}") from error


def _load_keras(path: Path) -> _Model:
    model = load_keras_model(path)
    height, width = getattr(model, "embedder", model).input_shape[1:3]
    return _Model(lambda images: predict_on_batch(model, images), (height, width), np.float32)


def _load_saved_model(path: Path) -> _Model:
    import tensorflow as tf

    loaded: Any = tf.saved_model.load(str(path))
    if "serving_default" not in loaded.signatures:
        raise ValueError(
            f"{path}: expected a signature serving_default. Received: signatures {sorted(loaded.signatures)}"
        )
    signature = loaded.signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or not _are_embeddings(outputs):
        raise ValueError(
            f"{path}: expected a signature serving_default with one input, and one output or `embedding` and `norm`. "
            f"Received: inputs {sorted(inputs)}, outputs {sorted(outputs)}"
        )
    name, spec = next(iter(inputs.items()))

    def embed(images: np.ndarray) -> np.ndarray:
        # The closure must hold `loaded`, which owns the variables, so it looks up the signature in each call.
        outputs = loaded.signatures["serving_default"](**{name: tf.cast(images, spec.dtype)})
        return _to_embeddings({name: value.numpy() for name, value in outputs.items()})

    height, width = spec.shape[1:3] if spec.shape.rank == 4 else (None, None)
    return _Model(embed, (height, width), spec.dtype.as_numpy_dtype)


def _load_onnx(path: Path) -> _Model:
    session = _onnx_session(path, str(path))
    if len(session.get_inputs()) > 1:
        session = _onnx_session(path, _remove_unused_inputs(path))
    inputs = [
        _Input(entry.name, entry.shape, _ONNX_DTYPES.get(entry.type, entry.type)) for entry in session.get_inputs()
    ]
    outputs = [entry.name for entry in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(outputs, session.run(outputs, {inputs[0].name: images}), strict=True))

    return _embedder_of_arrays(path, inputs, outputs, run)


def _onnx_session(path: Path, model: str | bytes) -> Any:
    with optional_import("onnx", "Loading an ONNX file"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(model, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime raises errors of many types.
        raise ValueError(f"{path}: expected a model that onnxruntime can load. Received: {error}") from error


def _remove_unused_inputs(path: Path) -> bytes:
    """Returns an ONNX model without inputs that are weights or are not used by any node.

    Old exporters list the weights among the inputs, and quantizers do not remove unused inputs.
    """
    with optional_import("onnx", f"Loading {path}"):
        import onnx
    model = onnx.load(path)
    used = {name for node in model.graph.node for name in node.input}
    used -= {weight.name for weight in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name in used]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model.SerializeToString()


def _load_openvino(path: Path) -> _Model:
    with optional_import("openvino", "Loading an OpenVINO file"):
        import openvino
    core = openvino.Core()
    try:
        model = core.read_model(path)
        # By default OpenVINO computes in bfloat16 on CPUs that support it.
        key = ["keras_arcface", "inference_precision"]
        precision = model.get_rt_info(key).astype(str) if model.has_rt_info(key) else "f32"
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    except RuntimeError as error:
        raise ValueError(f"{path}: expected a model that OpenVINO can load. Received: {error}") from error
    inputs = [
        _Input(
            entry.any_name,
            [side.get_length() if side.is_static else None for side in entry.partial_shape],
            entry.element_type.to_dtype().type,
        )
        for entry in compiled.inputs
    ]
    outputs = [next(iter(entry.names), str(number)) for number, entry in enumerate(compiled.outputs)]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(outputs, compiled([images]).values(), strict=True))

    return _embedder_of_arrays(path, inputs, outputs, run)


def _load_litert(path: Path) -> _Model:
    with optional_import("litert", "Loading a LiteRT file"):
        from ai_edge_litert.interpreter import Interpreter
    try:
        interpreter = Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a model that LiteRT can load. Received: {error}") from error
    inputs = [
        _Input(entry["name"], [None if side == -1 else int(side) for side in entry["shape_signature"]], entry["dtype"])
        for entry in interpreter.get_input_details()
    ]
    input_index = interpreter.get_input_details()[0]["index"]
    # A signature keeps the output names of the original model; the converter renames the tensors.
    if len(interpreter.get_signature_list()) == 1:
        outputs = interpreter.get_signature_runner().get_output_details()
    else:
        outputs = {entry["name"]: entry for entry in interpreter.get_output_details()}

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.resize_tensor_input(input_index, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(input_index, images)
        interpreter.invoke()
        return {name: interpreter.get_tensor(entry["index"]) for name, entry in outputs.items()}

    return _embedder_of_arrays(path, inputs, list(outputs), run)


class _Input(NamedTuple):
    """Input of a model. Unknown dimensions in `shape` are not integers."""

    name: str
    shape: list
    dtype: Any


def _embedder_of_arrays(
    path: Path, inputs: list[_Input], outputs: list[str], run: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> _Model:
    """Returns an embedder that runs a model in a runtime, and its image size.

    The embedder transposes images for models with channels first, and splits and pads batches for models with a fixed
    batch size. `run` maps an array to `{output name: array}`.
    """
    shape = [side if isinstance(side, int) else None for side in inputs[0].shape]
    if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]) or not _are_embeddings(outputs):
        raise ValueError(
            f"{path}: expected one input (n, 3, height, width) or (n, height, width, 3), and one output or `embedding` "
            f"and `norm`. Received: inputs {[(entry.name, entry.shape) for entry in inputs]}, outputs {outputs}"
        )
    dtype = inputs[0].dtype
    if dtype not in _INPUT_DTYPES:
        expected = ", ".join(supported.__name__ for supported in _INPUT_DTYPES)
        raise ValueError(f"{path}: expected an input of type {expected}. Received: {dtype}")
    channels_first, batch_size = shape[1] == 3, shape[0]

    def embed(images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2) if channels_first else images, dtype=dtype)
        if batch_size is None:
            return _to_embeddings(run(images))
        rows = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            padding = np.repeat(batch[-1:], batch_size - len(batch), axis=0)
            rows.append(_to_embeddings(run(np.concatenate([batch, padding])))[: len(batch)])
        return np.concatenate(rows)

    height, width = shape[2:4] if channels_first else shape[1:3]
    return _Model(embed, (height, width), dtype)


def _are_embeddings(outputs: Collection[str]) -> bool:
    return len(outputs) == 1 or {"embedding", "norm"} <= set(outputs)


def _to_embeddings(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the only output as a matrix, or the product of `embedding` and `norm`."""
    if len(outputs) == 1:
        (rows,) = outputs.values()
        return np.asarray(rows, np.float32).reshape(len(rows), -1)
    return np.asarray(outputs["embedding"] * outputs["norm"][:, None], np.float32)
