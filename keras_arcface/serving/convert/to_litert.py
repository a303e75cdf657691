"""Embedder -> LiteRT, which was TensorFlow Lite."""

import tempfile
import warnings
import zipfile
from pathlib import Path

import keras
import tensorflow as tf

from keras_arcface.serving.convert import graph as runtimes

PRECISIONS = ("float32", "float16", "int8")

# PRELU is not among them: on 8-bit integers it takes LiteRT's slow way, and cuts the graph into pieces.
_QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "PAD")
# Ranges are averaged over batches; of single images that would cut off what only a few reach.
_AT_ONCE = 16


def export_litert(
    embedder: keras.Model, path, precision: str = "float32", calibration=None, mirror: bool = False, check: bool = True
) -> Path:
    """Writes an embedder as a LiteRT (TensorFlow Lite) file.

    Its only signature has the input `images`, uint8 `(n, height, width, 3)` RGB, and the outputs `embedding` `(n, dim)`
    float32, L2-normalized, and `norm` `(n,)` float32, the length before that. It is made for one image; for more the
    interpreter resizes it, as calling the signature does by itself.

    | precision | |
    |---|---|
    | `float32` | |
    | `float16` | weights of half the size; CPUs compute in float32 or, where asked for, float16; GPUs in float16 |
    | `int8`    | convolutions, products and sums on 8-bit integers, PReLU and the normalization in float32 |

    The file is also a zip archive with `keras_arcface.json` in it: image size, colors, and what else a user must know.

    Args:
        embedder: RGB pixels in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)`, with a known height
            and width; what its dtype policy rounds is not rounded here.
        path: where to write; it ends in `.tflite`, and there must be nothing yet.
        precision: one of the above.
        calibration: for int8, some hundred images as the embedder will see them, uint8 `(m, height, width, 3)` RGB,
            from which the ranges of the activations are taken.
        mirror: whether the embedding of the mirror image is added before normalizing.
        check: whether the file must answer as the embedder does, or is not kept.

    Returns:
        The path.

    Raises:
        FileExistsError: if there is something at `path`.
        ModuleNotFoundError: saying what to install.
        ValueError: if an argument is not as it must be, Keras does not run on TensorFlow, or the file answers otherwise
            than the embedder.
    """
    path = runtimes.prepare("LiteRT", embedder, path, (".tflite",), precision, PRECISIONS, calibration)
    _package("ai_edge_litert.interpreter")
    served = runtimes.served_model(embedder, mirror)
    with runtimes.unfinished(path) as file, tempfile.TemporaryDirectory() as folder:
        if precision == "int8":
            floats = Path(folder) / "float32.tflite"
            _convert(served, floats, "float32")
            if check:
                runtimes.check_parity(_signature(floats), embedder, path, "float32", mirror, None)
            _quantize(floats, file, calibration)
        else:
            _convert(served, file, precision)
        # The way in which LiteRT's own metadata carry files: behind the model, which does not mind.
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(f"{runtimes.NAME}.json", runtimes.metadata(embedder, mirror, precision))
        if check:
            runtimes.check_parity(_signature(file), embedder, path, precision, mirror, calibration)
    return path


def _package(name):
    try:
        return __import__(name, fromlist=[""])
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"export_litert needs {error.name}, which is absent: pip install 'keras-arcface[litert]'"
        ) from error


def _convert(served, file, precision):
    # Its own operations only: those of TensorFlow that Keras would allow beside are not in every interpreter.
    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options = {}
    if precision == "float16":
        target["supported_types"] = [tf.float16]
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    images = keras.InputSpec(shape=served.input_shape, dtype="uint8", name="images")
    served.export(str(file), format="litert", verbose=False, input_signature=[images], target_spec=target, **options)


def _quantize(floats, file, calibration):
    quantizer = _package("litert_quantizer.quantizer").Quantizer(str(floats))
    for operation in _QUANTIZED:
        quantizer.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    # Embeddings come out of it: weights of 8 bits, and sums that are not rounded.
    quantizer.add_dynamic_config(".*", "FULLY_CONNECTED", num_bits=8)
    batches = [{"images": calibration[at : at + _AT_ONCE]} for at in range(0, len(calibration), _AT_ONCE)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        ranges = quantizer.calibrate({"serving_default": batches})
        quantized = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    quantized.export_model(str(file))


def _signature(file):
    signature = _package("ai_edge_litert.interpreter").Interpreter(str(file)).get_signature_runner()
    return lambda images: signature(images=images)
