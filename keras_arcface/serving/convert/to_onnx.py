"""Export of an embedder to ONNX."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_arcface._optional import optional_import
from keras_arcface.serving.convert import onnx_optimization
from keras_arcface.serving.convert.calibration import batches
from keras_arcface.serving.convert.graph import METADATA_KEY
from keras_arcface.serving.convert.graph import input_spec
from keras_arcface.serving.convert.graph import make_graph
from keras_arcface.serving.convert.graph import metadata_json
from keras_arcface.serving.convert.output import check_model
from keras_arcface.serving.convert.output import check_output
from keras_arcface.serving.convert.output import temporary_output
from keras_arcface.serving.convert.parity import check_parity

PRECISIONS = ("float32", "float16", "int8")

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
    L2-normalized, and `norm`, `(n,)` float32, its length before normalization. BatchNorm is folded into the
    convolutions, and PReLU is one operation.

    | precision | |
    |---|---|
    | `float32` | |
    | `float16` | weights of half the size, computed in float32: ONNX Runtime has no float16 kernels for x86 CPUs |
    | `int8`    | convolutions and matrix products in 8-bit integers; PReLU, sums and the normalization in float32 |

    Args:
        embedder: RGB pixels in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)`, with known height and
            width. Its dtype policy has no effect on the export.
        path: path that ends with `.onnx` and does not exist.
        precision: one of the above.
        calibration: for int8, some hundred images as in later use, uint8 RGB `(m, height, width, 3)`, from which the
            ranges of the activations are taken.
        mirror: whether to add the embedding of the mirror image before normalization.
        check: whether to compare the file with the embedder, and keep it only if the embeddings agree.

    Returns:
        The path.

    Raises:
        FileExistsError: if `path` exists.
        ModuleNotFoundError: if a required package is not installed.
        ValueError: if an argument is not valid, the backend is not TensorFlow, or the embeddings of the file differ
            from those of the embedder.
    """
    path = check_output("ONNX", path, (".onnx",))
    check_model(embedder, precision, PRECISIONS, calibration)
    onnx = _import_packages()[0]
    with temporary_output(path) as file:
        model = _convert(make_graph(embedder, mirror))
        if check and precision != "float32":
            check_parity(_session(model.SerializeToString()), embedder, path, "float32", mirror, None)
        if precision == "float16":
            onnx_optimization.store_weights_in_float16(model)
        elif precision == "int8":
            model = _quantize(model, calibration)
        onnx.helper.set_model_props(model, {METADATA_KEY: metadata_json(embedder, mirror, precision)})
        onnx.checker.check_model(model)
        onnx.save(model, file)
        if check:
            check_parity(_session(str(file)), embedder, path, precision, mirror, calibration)
    return path


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
        # Only optimizations that are valid on every machine: folded constants, including factors of BatchNorm.
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

    add_pre_process_metadata(model)  # the model is folded already; without this the quantizer warns
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            file,
            Images(),
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            # x86 CPUs compute convolutions fast with unsigned activations and signed weights.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # The outputs of these are embeddings. One range for all dimensions would lose the small ones.
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
