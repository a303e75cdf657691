"""Export of an embedder to LiteRT (TensorFlow Lite)."""

import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_arcface._choices import LITERT_PRECISIONS
from keras_arcface._optional import optional_import
from keras_arcface._optional import require
from keras_arcface.serving.convert.calibration import batches
from keras_arcface.serving.convert.conversion import Conversion
from keras_arcface.serving.convert.graph import METADATA_KEY
from keras_arcface.serving.convert.graph import input_spec

# PRELU is not in the list: its 8-bit kernel in LiteRT is slow, and would split the graph.
_QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "PAD")


def export_litert(
    embedder: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    calibration: np.ndarray | None = None,
    mirror: bool = False,
    check: bool = True,
) -> Path:
    """Writes an embedder as a LiteRT (TensorFlow Lite) file.

    Its only signature has the input `images`, uint8 RGB `(n, height, width, 3)`, and the outputs `embedding`,
    `(n, dim)` float32, L2-normalized, and `norm`, `(n,)` float32, the norm before normalization. The batch size in the
    file is 1. The interpreter can resize it, and a call of the signature resizes it automatically.

    | precision | weights and computation |
    |---|---|
    | `float32` | float32 weights and computation |
    | `float16` | float16 weights; CPUs compute in float32, or in float16 if requested; GPUs compute in float16 |
    | `int8`    | convolutions, products and sums in 8-bit integers; PReLU and the normalization in float32 |

    The file is also a zip archive with the metadata in `keras_arcface.json`: image size, colors and more.

    Args:
        embedder: model that maps RGB pixels in 0..255 `(batch, height, width, 3)` to embeddings `(batch, dim)`, with
            known height and width. The export does not depend on its dtype policy.
        path: path that ends with `.tflite` and does not exist.
        precision: name of a precision in the table above.
        calibration: uint8 RGB images `(m, height, width, 3)` that determine the ranges of the activations for int8.
            Pass a few hundred images of the kind that the model will embed, see `calibration_images`. Other precisions
            ignore it.
        mirror: if true, adds the embedding of the mirror image before the normalization. It doubles the time.
        check: if true, compares the exported model with the embedder, and keeps it only if the embeddings agree.

    Returns:
        Path of the file.

    Raises:
        BlockingIOError: if another process exports to `path`.
        FileExistsError: if `path` exists.
        ModuleNotFoundError: if a required package is not installed. The message says what to install.
        OSError: if the files cannot be written, for example because the disk is full. No file remains.
        ValueError: if `path` has another suffix, `precision` is unknown, `calibration` does not contain images of the
            embedder's size for int8, the input or output of the embedder has a different shape, the backend is not
            TensorFlow, or the embeddings of the export differ from those of the embedder.

    Examples:
        >>> export_litert(embedder, "embedder.tflite")
        PosixPath('embedder.tflite')
        >>> embed = load_embedder("embedder.tflite")
        >>> bool(np.allclose(embed(images), embedder.predict(images, verbose=0), atol=1e-3))
        True

        With 8-bit integers:

            calibration = calibration_images(data.TFRecords("ms1m"), image_size=(112, 112))
            export_litert(embedder, "embedder_int8.tflite", "int8", calibration)
    """
    conversion = Conversion("LiteRT", (".tflite",), LITERT_PRECISIONS, embedder, path, precision, calibration, mirror)
    with optional_import("litert", "export_litert"):
        from ai_edge_litert.interpreter import Interpreter
    if precision == "int8":
        require("litert_quantizer", "litert", "export_litert with precision='int8'")
    graph = conversion.make_graph()
    with conversion.temporary_output() as file, tempfile.TemporaryDirectory() as folder:
        if precision == "int8":
            float_file = Path(folder) / "float32.tflite"
            _convert(graph, float_file, "float32")
            if check:
                conversion.check_parity(_signature(Interpreter, float_file), "float32")
            _quantize(float_file, file, calibration)
        else:
            _convert(graph, file, precision)
        # LiteRT stores its own metadata in the same way, as a zip archive after the model.
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(f"{METADATA_KEY}.json", conversion.metadata_json())
        if check:
            conversion.check_parity(_signature(Interpreter, file), precision)
    return Path(path)


def _convert(graph: keras.Model, file: Path, precision: str) -> None:
    # By default Keras also allows operations of TensorFlow, which some interpreters do not support.
    target: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options = {}
    if precision == "float16":
        target["supported_types"] = [tf.float16]
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    signature = [input_spec(graph)]
    graph.export(str(file), format="litert", verbose=False, input_signature=signature, target_spec=target, **options)


def _quantize(float_file: Path, file: Path, calibration: np.ndarray | None) -> None:
    from litert_quantizer.quantizer import Quantizer

    assert calibration is not None
    quantizer = Quantizer(str(float_file))
    for operation in _QUANTIZED:
        quantizer.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    # The output is the embedding, so only the weights are rounded to 8 bits.
    quantizer.add_dynamic_config(".*", "FULLY_CONNECTED", num_bits=8)
    # The quantizer averages ranges over batches. With batches of one image, it would clip rare large values.
    data = [{"images": batch} for batch in batches(calibration)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        ranges = quantizer.calibrate({"serving_default": data})
        quantized = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    quantized.export_model(str(file))


def _signature(interpreter_class: Any, file: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function that runs a file in LiteRT."""
    signature = interpreter_class(str(file)).get_signature_runner()
    return lambda images: signature(images=images)
