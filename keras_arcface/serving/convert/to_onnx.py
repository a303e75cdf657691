"""Export of an embedder to ONNX."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_arcface._choices import ONNX_PRECISIONS
from keras_arcface._optional import optional_import
from keras_arcface.serving.convert import onnx_optimization
from keras_arcface.serving.convert.calibration import batches
from keras_arcface.serving.convert.conversion import Conversion
from keras_arcface.serving.convert.graph import METADATA_KEY
from keras_arcface.serving.convert.graph import input_spec

_OPSET = 15


def export_onnx(
    embedder: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    calibration: np.ndarray | None = None,
    mirror: bool = False,
    check: bool = True,
) -> Path:
    """Writes an embedder as an ONNX file, for ONNX Runtime and other runtimes.

    The input is `images`, uint8 RGB `(n, height, width, 3)` for any n. The outputs are `embedding`, `(n, dim)` float32,
    L2-normalized, and `norm`, `(n,)` float32, the norm before normalization. BatchNorm is folded into the
    convolutions, and PReLU is one operation.

    | precision | weights and computation |
    |---|---|
    | `float32` | float32 weights and computation |
    | `float16` | float16 weights, computation in float32: ONNX Runtime has no float16 kernels for x86 CPUs |
    | `int8`    | convolutions and matrix products in 8-bit integers; PReLU, sums and the normalization in float32 |

    Args:
        embedder: model that maps RGB pixels in 0..255 `(batch, height, width, 3)` to embeddings `(batch, dim)`, with
            known height and width. The export does not depend on its dtype policy.
        path: path that ends with `.onnx` and does not exist.
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
        >>> export_onnx(embedder, "embedder.onnx")
        PosixPath('embedder.onnx')
        >>> embed = load_embedder("embedder.onnx")
        >>> bool(np.allclose(embed(images), embedder.predict(images, verbose=0), atol=1e-3))
        True

        With 8-bit integers:

            calibration = calibration_images(data.TFRecords("ms1m"), image_size=(112, 112))
            export_onnx(embedder, "embedder_int8.onnx", "int8", calibration)
    """
    conversion = Conversion("ONNX", (".onnx",), ONNX_PRECISIONS, embedder, path, precision, calibration, mirror)
    onnx = _import_packages()[0]
    with conversion.temporary_output() as file:
        model = _convert(conversion.make_graph())
        if check and precision != "float32":
            conversion.check_parity(_session(model.SerializeToString()), "float32")
        if precision == "float16":
            onnx_optimization.store_weights_in_float16(model)
        elif precision == "int8":
            model = _quantize(model, calibration)
        onnx.helper.set_model_props(model, {METADATA_KEY: conversion.metadata_json()})
        onnx.checker.check_model(model)
        onnx.save(model, file)
        if check:
            conversion.check_parity(_session(str(file)), precision)
    return Path(path)


def _import_packages() -> tuple[Any, Any]:
    with optional_import("onnx", "export_onnx"):
        import onnx
        import onnxruntime
        import tf2onnx  # noqa: F401  (used by Keras)
    return onnx, onnxruntime


def _convert(graph: keras.Model) -> Any:
    onnx, onnxruntime = _import_packages()
    with tempfile.TemporaryDirectory() as folder:
        raw, folded = Path(folder) / "raw.onnx", Path(folder) / "folded.onnx"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*np.object", FutureWarning)  # raised by Keras' code for tf2onnx
            signature = [input_spec(graph)]
            graph.export(str(raw), format="onnx", verbose=False, input_signature=signature, opset_version=_OPSET)
        model = onnx.load(raw)
        onnx_optimization.fuse_prelu(model)
        onnx_optimization.flatten_channels_first(model)
        onnx_optimization.remove_unused(model)
        onnx.save(model, raw)
        # The basic level folds constants, including factors of BatchNorm. Higher levels depend on the machine.
        options = _session_options(onnxruntime)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
        model = onnx.load(folded)
    onnx_optimization.normalize_interface(model)
    return model


def _quantize(model: Any, calibration: np.ndarray | None) -> Any:
    onnx, _ = _import_packages()
    from onnxruntime import quantization
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    assert calibration is not None
    remaining = batches(calibration)

    class Images(quantization.CalibrationDataReader):
        def get_next(self):
            batch = next(remaining, None)
            return None if batch is None else {"images": batch}

    add_pre_process_metadata(model)  # prevents a warning of the quantizer: the model is already optimized
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            file,
            Images(),
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            # x86 CPUs compute convolutions fast with unsigned activations and signed weights. Without VNNI
            # instructions, they add pairs of products in 16 bits, which only weights of 7 bits never exceed.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
            # The outputs of MatMul and Gemm are embeddings: a single range would round small dimensions to zero.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return onnx.load(file)


def _session(model: str | bytes) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function that runs a model in ONNX Runtime."""
    _, onnxruntime = _import_packages()
    session = onnxruntime.InferenceSession(model, _session_options(onnxruntime), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def _session_options(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return options
