"""Numerical precision of models."""

import functools
import logging
import os

import keras
import tensorflow as tf

from keras_arcface import _arguments
from keras_arcface import _processor
from keras_arcface._choices import PRECISIONS

# Operations that TensorFlow must not compute in bfloat16: matrix products, because heads require float32, and a
# gradient of strided convolutions, because it is about fifty times slower in bfloat16 with oneDNN.
_FLOAT32_OPERATIONS = "MatMul,BatchMatMul,BatchMatMulV2,BatchMatMulV3,Einsum,DepthwiseConv2dNativeBackpropInput"
# Casts between operations in bfloat16 become casts of bfloat16, which do nothing. Without this, TensorFlow converts the
# inputs and outputs of each compiled PReLU to float32 and back.
_CAST = "Cast"

_log = logging.getLogger(__name__)


def use_precision(precision: str = "auto") -> str:
    """Sets the precision of models created afterwards. Heads always compute in float32.

    Args:
        precision: "float32"; "mixed_float16" for GPUs, where `compile` adds loss scaling; "mixed_bfloat16" for newer
            GPUs and TPUs; "onednn_bfloat16" for CPUs with AVX512-BF16 or AMX, where TensorFlow computes convolutions
            in bfloat16; or "auto", which selects mixed_float16 with a GPU and onednn_bfloat16 with such a CPU, both
            only on TensorFlow, and otherwise float32. On TensorFlow, a precision for which the machine has no
            instructions, and with which it would be slower, becomes float32 with a warning in the log.
            `keras.config.set_dtype_policy` sets a policy on any machine.

    Returns:
        The precision of the models, never "auto".

    Raises:
        ValueError: if the precision is unknown, or is onednn_bfloat16 and the backend is not TensorFlow.

    Examples:
        >>> use_precision("float32")
        'float32'

        On a machine with a GPU:

            use_precision("auto")                       # "mixed_float16"
            backbone = backbones.MobileFaceNet()
            backbone.compute_dtype                      # "float16"
            ArcFace(num_classes=10).compute_dtype       # "float32"
    """
    _arguments.check_choice("precision", precision, PRECISIONS)
    is_tensorflow = keras.backend.backend() == "tensorflow"
    fast = _fast_precisions() if is_tensorflow else PRECISIONS
    if precision == "auto":
        precision = fast[-1] if is_tensorflow else "float32"
    elif precision not in fast:
        _warn_of_float32(precision)
        precision = "float32"
    uses_onednn = precision == "onednn_bfloat16"
    if uses_onednn and not is_tensorflow:
        raise ValueError(
            f"precision={precision!r} requires the tensorflow backend: set KERAS_BACKEND=tensorflow before importing "
            f"Keras. Received: backend={keras.backend.backend()!r}"
        )
    if is_tensorflow:
        if uses_onednn:
            _choose_bfloat16_operations()
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": uses_onednn})
    keras.config.set_dtype_policy("float32" if uses_onednn else precision)
    return precision


def _choose_bfloat16_operations() -> None:
    """Sets the environment variables of operations that TensorFlow reads for every graph."""
    excluded = _FLOAT32_OPERATIONS.split(",")
    for suffix, operations in (("ALLOWLIST_REMOVE", excluded), ("CLEARLIST_ADD", [_CAST])):
        name = f"TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_{suffix}"
        others = [op for op in os.environ.get(name, "").split(",") if op and op not in operations]
        os.environ[name] = ",".join([*others, *operations])


def _fast_precisions() -> tuple[str, ...]:
    """Returns the precisions with which TensorFlow is not slower than with float32 on this machine, the best last."""
    if tf.config.list_physical_devices("GPU"):
        return "float32", "mixed_bfloat16", "mixed_float16"
    return ("float32", "mixed_bfloat16", "onednn_bfloat16") if _processor.has_bfloat16() else ("float32",)


@functools.cache  # once in a process
def _warn_of_float32(precision: str) -> None:
    _log.warning(
        "precision=%r is slower than float32 on this machine, which has no instructions for it. Models are created in "
        "float32.",
        precision,
    )
