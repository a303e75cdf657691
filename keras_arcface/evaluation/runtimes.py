"""Embedders as they lie on disk -> functions: `.keras`, a SavedModel, ONNX."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

COLOURS = ("RGB", "BGR")
_ONNX_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(float16)": np.float16}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a foreign model expects of its pixels: `(x - mean) / std`, in this order of colours.

    This package's models normalise inside and need none of it: they take RGB in 0..255.

    Args:
        colour: "RGB" or "BGR".
        mean: what is subtracted; insightface's ONNX files take 127.5.
        std: what it is divided by; 127.5 again.

    Raises:
        ValueError: if the order is another, or `std` is not above 0.
    """

    colour: str = "RGB"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if self.colour not in COLOURS:
            raise ValueError(f"colour must be one of {', '.join(COLOURS)}. Received: colour={self.colour!r}")
        if not self.std > 0:
            raise ValueError(f"std must be above 0. Received: std={self.std}")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if self.colour == "BGR":
            images = images[..., ::-1]
        if self.mean == 0 and self.std == 1:
            return np.ascontiguousarray(images)
        return ((images - self.mean) / self.std).astype(np.float32)


def load_embedder(path, colour: str = "RGB", mean: float = 0.0, std: float = 1.0) -> Callable:
    """Loads an embedder from disk.

    Args:
        path: a `.keras` file of an embedder or of a RecognitionModel, the directory of a SavedModel with a signature
            `serving_default`, or an `.onnx` file with one input `(n, 3, height, width)` or `(n, height, width, 3)`.
        colour, mean, std: what the model expects of its pixels, see `Preprocessing`.

    Returns:
        A function, RGB images in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)` float32. Of a
        SavedModel that gives `embedding` and `norm` it is their product, the embedding as it was before.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ModuleNotFoundError: saying what to install, if ONNX files cannot be read.
        ValueError: naming the file, if it is of no such kind, or has other inputs or outputs; so does the function,
            for images of another size than the model takes.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no embedder at {path}")
    preprocessing = Preprocessing(colour, mean, std)
    if path.suffix == ".keras":
        embed, size = _keras(path)
    elif path.suffix == ".onnx":
        embed, size = _onnx(path)
    elif (path / "saved_model.pb").is_file():
        embed, size = _saved_model(path)
    else:
        raise ValueError(
            f"{path} is no embedder. Expected: a .keras file, the directory of a SavedModel (with saved_model.pb in "
            "it), or an .onnx file"
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
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:  # predict_on_batch gives each the whole batch
        return lambda images: np.asarray(model.predict(images, batch_size=len(images), verbose=0), np.float32)
    if isinstance(model, keras.Model):
        return lambda images: np.asarray(model.predict_on_batch(images), np.float32)
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
    if len(inputs) != 1 or not (len(outputs) == 1 or {"embedding", "norm"} <= set(outputs)):
        raise ValueError(
            f"{path}, serving_default: expected one input, and one output or `embedding` and `norm`. "
            f"Received: inputs {sorted(inputs)}, outputs {sorted(outputs)}"
        )
    name, spec = next(iter(inputs.items()))

    def embed(images):
        answer = signature(**{name: tf.cast(images, spec.dtype)})
        if len(outputs) == 1:
            return next(iter(answer.values())).numpy().astype(np.float32)
        return answer["embedding"].numpy() * answer["norm"].numpy()[:, None]

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
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]) or len(outputs) != 1:
        raise ValueError(
            f"{path}: expected one input (n, 3, height, width) or (n, height, width, 3), and one output. "
            f"Received: inputs {[(i.name, i.shape) for i in inputs]}, outputs {[(o.name, o.shape) for o in outputs]}"
        )
    channels_first = shape[1] == 3
    if inputs[0].type not in _ONNX_TYPES:
        raise ValueError(f"{path}: expected an input of one of {', '.join(_ONNX_TYPES)}. Received: {inputs[0].type}")
    dtype = _ONNX_TYPES[inputs[0].type]
    at_once = shape[0] if isinstance(shape[0], int) else None

    def embed(images):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2) if channels_first else images, dtype=dtype)
        parts = [images] if at_once is None else np.split(images, range(at_once, len(images), at_once))
        rows = []
        for part in parts:
            missing = (at_once or len(part)) - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            answer = session.run(None, {inputs[0].name: filled})[0]
            rows.append(answer.reshape(len(filled), -1)[: len(part)].astype(np.float32))
        return np.concatenate(rows)

    return embed, tuple(shape[2:4] if channels_first else shape[1:3])


def _without_weights_as_inputs(path) -> bytes:
    """Old exporters list the weights among the inputs too, and quantisers leave them there, read by nothing."""
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
