"""Embedder -> OpenVINO."""

import logging
import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_arcface.serving.convert import graph as runtimes

PRECISIONS = ("float32", "float16", "bfloat16", "int8")

_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")


def export_openvino(
    embedder: keras.Model, path, precision: str = "float32", calibration=None, mirror: bool = False, check: bool = True
) -> Path:
    """Writes an embedder as an OpenVINO model: the graph in `path`, the weights in a `.bin` beside it.

    Its input is `images`, uint8 `(n, height, width, 3)` RGB, of any n; its outputs are `embedding` `(n, dim)` float32,
    L2-normalized, and `norm` `(n,)` float32, the length before that.

    | precision  | weights | computed in |
    |------------|---------|---|
    | `float32`  | float32 | float32 |
    | `float16`  | float16 | float32, or float16 where asked for |
    | `bfloat16` | float16 | bfloat16, where the machine has it |
    | `int8`     | int8    | 8-bit integers; the normalization float32 |

    OpenVINO does not read from a file what to compute in: left alone, it takes bfloat16 where the machine is quick at
    that. So compile with `INFERENCE_PRECISION_HINT`, which `keras_arcface.serving.load_embedder` does: the model's
    runtime information has it as `keras_arcface`, `inference_precision`.

    Args:
        embedder: RGB pixels in 0..255 `(batch, height, width, 3)` -> embeddings `(batch, dim)`, with a known height
            and width; what its dtype policy rounds is not rounded here.
        path: where to write; it ends in `.xml`, and neither it nor the `.bin` may exist.
        precision: one of the above.
        calibration: for int8, some hundred images as the embedder will see them, uint8 `(m, height, width, 3)` RGB,
            from which the ranges of the activations are taken.
        mirror: whether the embedding of the mirror image is added before normalizing.
        check: whether the model must answer as the embedder does, or is not kept.

    Returns:
        The path.

    Raises:
        FileExistsError: if one of the files exists.
        ModuleNotFoundError: saying what to install.
        ValueError: if an argument is not as it must be, Keras does not run on TensorFlow, or the model answers
            otherwise than the embedder.
    """
    path = runtimes.prepare("OpenVINO", embedder, path, (".xml", ".bin"), precision, PRECISIONS, calibration)
    openvino = _package("openvino")
    hint = "bf16" if precision == "bfloat16" else "f32"
    with runtimes.unfinished(path) as file:
        model = _converted(openvino, runtimes.served_model(embedder, mirror))
        if check and precision != "float32":
            run = _compiled(openvino, model, "f32")
            runtimes.check_parity(run, embedder, path, "float32", mirror, None)
        if precision == "int8":
            model = _quantized(model, calibration)
        model.set_rt_info(runtimes.metadata(embedder, mirror, precision), [runtimes.NAME, "metadata"])
        model.set_rt_info(hint, [runtimes.NAME, "inference_precision"])
        openvino.save_model(model, file, compress_to_fp16=precision in ("float16", "bfloat16"))
        if check:
            run = _compiled(openvino, file, hint)
            runtimes.check_parity(run, embedder, path, precision, mirror, calibration)
    return path


def _package(name):
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"export_openvino needs {name}, which is absent: pip install 'keras-arcface[openvino]'"
        ) from error


def _converted(openvino, served):
    images = keras.InputSpec(shape=served.input_shape, dtype="uint8", name="images")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        served.export(str(file), format="openvino", verbose=False, input_signature=[images])
        return openvino.Core().read_model(file.read_bytes(), file.with_suffix(".bin").read_bytes())


def _quantized(model, calibration):
    nncf = _package("nncf")
    from nncf.quantization import range_estimator

    nncf.set_log_level(logging.WARNING)
    return nncf.quantize(
        model,
        nncf.Dataset(np.split(calibration, len(calibration))),
        preset=nncf.QuantizationPreset.MIXED,  # PReLU leaves few values below zero: ranges that are not symmetric
        subset_size=len(calibration),
        # Rounded to 8 bits, embeddings would not have length 1.
        ignored_scope=nncf.IgnoredScope(names=_behind_the_last_product(model)),
        # By default ranges are averaged over images, and biases shifted: that was farther from the embedder.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=range_estimator.RangeEstimatorParametersSet.MINMAX,
            disable_bias_correction=True,
        ),
    )


def _behind_the_last_product(model):
    """Names of the operations from the last matrix product or convolution to the outputs."""
    found = set()
    waiting = [result.input_value(0).get_node() for result in model.get_results()]
    while waiting:
        node = waiting.pop()
        if node.get_type_name() in (*_PRODUCTS, "Constant", "Parameter") or node.get_friendly_name() in found:
            continue
        found.add(node.get_friendly_name())
        waiting += [value.get_node() for value in node.input_values()]
    return sorted(found)


def _compiled(openvino, model, hint):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda images: {output.any_name: values for output, values in compiled([images]).items()}
