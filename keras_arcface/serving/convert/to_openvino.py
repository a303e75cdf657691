"""Export of an embedder to OpenVINO."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_arcface._choices import OPENVINO_PRECISIONS
from keras_arcface._optional import optional_import
from keras_arcface._optional import require
from keras_arcface.serving.convert.conversion import Conversion
from keras_arcface.serving.convert.graph import METADATA_KEY
from keras_arcface.serving.convert.graph import input_spec

_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")


def export_openvino(
    embedder: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    calibration: np.ndarray | None = None,
    mirror: bool = False,
    check: bool = True,
) -> Path:
    """Writes an embedder as an OpenVINO model: the graph to `path`, the weights to a `.bin` file next to it.

    The input is `images`, uint8 RGB `(n, height, width, 3)` for any n. The outputs are `embedding`, `(n, dim)` float32,
    L2-normalized, and `norm`, `(n,)` float32, the norm before normalization.

    | precision  | weights | computed in |
    |------------|---------|---|
    | `float32`  | float32 | float32 |
    | `float16`  | float16 | float32, or float16 if requested |
    | `bfloat16` | float16 | bfloat16, if the machine supports it |
    | `int8`     | int8    | 8-bit integers; the normalization in float32 |

    OpenVINO does not read the precision of the computation from the file. By default it uses bfloat16 on machines where
    that is faster. Therefore compile the model with `INFERENCE_PRECISION_HINT`, as `serving.load_embedder` does. The
    runtime information of the model stores the required value under `["keras_arcface", "inference_precision"]`.

    Args:
        embedder: model that maps RGB pixels in 0..255 `(batch, height, width, 3)` to embeddings `(batch, dim)`, with
            known height and width. The export does not depend on its dtype policy.
        path: path that ends with `.xml`. Neither it nor the `.bin` file may exist.
        precision: name of a precision in the table above.
        calibration: uint8 RGB images `(m, height, width, 3)` that determine the ranges of the activations for int8.
            Pass a few hundred images of the kind that the model will embed, see `calibration_images`. Other precisions
            ignore it.
        mirror: if true, adds the embedding of the mirror image before the normalization. It doubles the time.
        check: if true, compares the exported model with the embedder, and keeps it only if the embeddings agree.

    Returns:
        Path of the `.xml` file.

    Raises:
        BlockingIOError: if another process exports to `path`.
        FileExistsError: if one of the files exists.
        ModuleNotFoundError: if a required package is not installed. The message says what to install.
        OSError: if the files cannot be written, for example because the disk is full. No file remains.
        ValueError: if `path` has another suffix, `precision` is unknown, `calibration` does not contain images of the
            embedder's size for int8, the input or output of the embedder has a different shape, the backend is not
            TensorFlow, or the embeddings of the export differ from those of the embedder.

    Examples:
        >>> export_openvino(embedder, "embedder.xml")
        PosixPath('embedder.xml')
        >>> embed = load_embedder("embedder.xml")
        >>> bool(np.allclose(embed(images), embedder.predict(images, verbose=0), atol=1e-3))
        True

        With 8-bit integers:

            calibration = calibration_images(data.TFRecords("ms1m"), image_size=(112, 112))
            export_openvino(embedder, "embedder_int8.xml", "int8", calibration)
    """
    conversion = Conversion(
        "OpenVINO", (".xml", ".bin"), OPENVINO_PRECISIONS, embedder, path, precision, calibration, mirror
    )
    with optional_import("openvino", "export_openvino"):
        import openvino
    if precision == "int8":
        require("nncf", "openvino", "export_openvino with precision='int8'")
    hint = "bf16" if precision == "bfloat16" else "f32"
    with conversion.temporary_output() as file:
        model = _convert(openvino, conversion.make_graph())
        if check and precision != "float32":
            conversion.check_parity(_compile(openvino, model, "f32"), "float32")
        if precision == "int8":
            model = _quantize(model, calibration)
        model.set_rt_info(conversion.metadata_json(), [METADATA_KEY, "metadata"])
        model.set_rt_info(hint, [METADATA_KEY, "inference_precision"])
        openvino.save_model(model, file, compress_to_fp16=precision in ("float16", "bfloat16"))
        if check:
            conversion.check_parity(_compile(openvino, file, hint), precision)
    return Path(path)


def _convert(openvino: Any, graph: keras.Model) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        graph.export(str(file), format="openvino", verbose=False, input_signature=[input_spec(graph)])
        return openvino.Core().read_model(file.read_bytes(), file.with_suffix(".bin").read_bytes())


def _quantize(model: Any, calibration: np.ndarray | None) -> Any:
    import nncf
    from nncf.quantization import range_estimator

    assert calibration is not None
    nncf.set_log_level(logging.WARNING)
    return nncf.quantize(
        model,
        nncf.Dataset(np.split(calibration, len(calibration))),
        preset=nncf.QuantizationPreset.MIXED,  # asymmetric ranges: few values are negative after a PReLU
        subset_size=len(calibration),
        # The normalization stays in float32: in 8 bits, embeddings would not have norm 1.
        ignored_scope=nncf.IgnoredScope(names=_operations_after_last_product(model)),
        # The defaults (ranges averaged over images, bias correction) give lower cosines to the float32 embeddings.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=range_estimator.RangeEstimatorParametersSet.MINMAX,
            disable_bias_correction=True,
        ),
    )


def _operations_after_last_product(model: Any) -> list[str]:
    """Returns the names of all operations after the last matrix product or convolution."""
    found: set[str] = set()
    remaining = [result.input_value(0).get_node() for result in model.get_results()]
    while remaining:
        node = remaining.pop()
        if node.get_type_name() in (*_PRODUCTS, "Constant", "Parameter") or node.get_friendly_name() in found:
            continue
        found.add(node.get_friendly_name())
        remaining += [value.get_node() for value in node.input_values()]
    return sorted(found)


def _compile(openvino: Any, model: Any, hint: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function that runs a model in OpenVINO."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda images: {output.any_name: values for output, values in compiled([images]).items()}
