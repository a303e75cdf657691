"""Embedder -> ONNX."""

import tempfile
import warnings
from pathlib import Path

import keras

from keras_arcface.serving.convert import graph as runtimes
from keras_arcface.serving.convert import onnx_optimization as onnx_graph

PRECISIONS = ("float32", "float16", "int8")

_OPSET = 15
_AT_ONCE = 16  # images, in calibration


def export_onnx(
    embedder: keras.Model, path, precision: str = "float32", calibration=None, mirror: bool = False, check: bool = True
) -> Path:
    """Writes an embedder as an ONNX file, for ONNX Runtime and whatever else reads ONNX.

    Its input is `images`, uint8 `(n, height, width, 3)` RGB, of any n; its outputs are `embedding` `(n, dim)` float32,
    L2-normalized, and `norm` `(n,)` float32, the length before that. BatchNorm is folded into the convolutions, and
    PReLU is one operation.

    | precision | |
    |---|---|
    | `float32` | |
    | `float16` | weights of half the size, computed with in float32: ONNX Runtime has no float16 on x86 CPUs |
    | `int8`    | convolutions and matrix products on 8-bit integers, PReLU, sums and the normalization in float32 |

    Args:
        embedder: RGB pixels in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)`, with a known height
            and width; what its dtype policy rounds is not rounded here.
        path: where to write; it ends in `.onnx`, and there must be nothing yet.
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
    path = runtimes.prepare("ONNX", embedder, path, (".onnx",), precision, PRECISIONS, calibration)
    onnx = _packages()[0]
    with runtimes.unfinished(path) as file:
        model = _converted(runtimes.served_model(embedder, mirror))
        if check and precision != "float32":
            run = _session(model.SerializeToString())
            runtimes.check_parity(run, embedder, path, "float32", mirror, None)
        if precision == "float16":
            onnx_graph.store_weights_in_float16(model)
        elif precision == "int8":
            model = _quantized(model, calibration)
        onnx.helper.set_model_props(model, {runtimes.NAME: runtimes.metadata(embedder, mirror, precision)})
        onnx.checker.check_model(model)
        onnx.save(model, file)
        if check:
            runtimes.check_parity(_session(str(file)), embedder, path, precision, mirror, calibration)
    return path


def _packages():
    try:
        import onnx
        import onnxruntime
        import tf2onnx  # noqa: F401  (Keras imports it)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"export_onnx needs {error.name}, which is absent: pip install 'keras-arcface[onnx]'"
        ) from error
    return onnx, onnxruntime


def _converted(served):
    onnx, onnxruntime = _packages()
    images = keras.InputSpec(shape=served.input_shape, dtype="uint8", name="images")
    with tempfile.TemporaryDirectory() as folder:
        raw, folded = Path(folder) / "raw.onnx", Path(folder) / "folded.onnx"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*np.object", FutureWarning)  # in what Keras does for tf2onnx
            served.export(str(raw), format="onnx", verbose=False, input_signature=[images], opset_version=_OPSET)
        model = onnx.load(raw)
        onnx_graph.fuse_prelu(model)
        onnx_graph.flatten_channels_first(model)
        onnx_graph.drop_unread(model)
        onnx.save(model, raw)
        # What holds on every machine: constants folded, among them what BatchNorm multiplies and adds.
        options = _options(onnxruntime)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
        model = onnx.load(folded)
    onnx_graph.tidy(model)
    return model


def _quantized(model, calibration):
    onnx, _ = _packages()
    from onnxruntime import quantization
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    batches = (calibration[at : at + _AT_ONCE] for at in range(0, len(calibration), _AT_ONCE))

    class Images(quantization.CalibrationDataReader):
        def get_next(self):
            batch = next(batches, None)
            return None if batch is None else {"images": batch}

    add_pre_process_metadata(model)  # it is folded already; without this the quantizer warns
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            file,
            Images(),
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            # Convolutions of x86 CPUs are quick with unsigned pixels and signed weights.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Embeddings come out of it: with one range for all of their directions the small ones would be lost.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return onnx.load(file)


def _session(model):
    _, onnxruntime = _packages()
    session = onnxruntime.InferenceSession(model, _options(onnxruntime), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def _options(onnxruntime):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return options
