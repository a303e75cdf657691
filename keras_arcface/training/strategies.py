"""Where a model is placed, and in which precision it computes."""

import contextlib
import logging
import os
from pathlib import Path

import keras
import tensorflow as tf

_log = logging.getLogger(__name__)

STRATEGIES = ("auto", "mirrored", "one-device", "jax")

# Operations that TensorFlow would turn to bfloat16 too: the products of heads, which are to stay in float32, and a
# gradient that oneDNN, with strides, takes some fifty times as long for in bfloat16.
_IN_FLOAT32 = "MatMul,BatchMatMul,BatchMatMulV2,BatchMatMulV3,Einsum,DepthwiseConv2dNativeBackpropInput"
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16", "onednn_bfloat16")


def all_gpus_strategy() -> tf.distribute.Strategy:
    """Gives a strategy that trains on every GPU of this machine, or on its CPU if it has none.

    With two GPUs or more it is a `MirroredStrategy`, which splits each batch between them. Create the model within
    `strategy.scope()`.

    >>> with all_gpus_strategy().scope():
    ...     model = RecognitionModel(embedder, head)
    """
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    _log.info("training on %s", ", ".join(gpus) or "the CPU")
    return tf.distribute.MirroredStrategy(gpus) if len(gpus) > 1 else tf.distribute.get_strategy()


def placed(strategy: str = "auto") -> contextlib.AbstractContextManager:
    """Gives a context to create, compile and train a model in, so that it does so where it should.

    On TensorFlow what counts is where a model is created, on JAX where it is trained as well.

    >>> with placed("auto"):
    ...     model = RecognitionModel(embedder, head)
    ...     model.compile("sgd")
    ...     # model.fit(images)

    Args:
        strategy: "auto", all GPUs of this machine, or its CPU; "mirrored", `MirroredStrategy` over all logical devices,
            CPUs if there are no GPUs; "one-device", the first GPU or the CPU; "jax", data parallel over all devices
            that JAX sees, by `keras.distribution`.

    Raises:
        ValueError: for another name, or a strategy that the backend at hand does not have.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy expects one of {', '.join(STRATEGIES)}. Received: {strategy!r}")
    backend = keras.backend.backend()
    if (strategy == "jax" and backend != "jax") or (strategy == "mirrored" and backend != "tensorflow"):
        needed = "jax" if strategy == "jax" else "tensorflow"
        raise ValueError(
            f"strategy={strategy!r} needs the backend {needed}: set KERAS_BACKEND={needed} before Keras is imported. "
            f"Received: the backend {backend}"
        )
    if backend == "jax" and strategy in ("auto", "jax"):
        return keras.distribution.DataParallel(auto_shard_dataset=False).scope()
    if backend != "tensorflow":
        return contextlib.nullcontext()
    if strategy == "auto":
        return all_gpus_strategy().scope()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = [device.name for device in devices]
    if strategy == "mirrored":
        return tf.distribute.MirroredStrategy(names).scope()
    return tf.distribute.OneDeviceStrategy(names[0]).scope()


def use_precision(precision: str = "auto") -> str:
    """Sets the precision in which the models that are made from now on compute. Heads stay in float32.

    Args:
        precision: "float32"; "mixed_float16", for GPUs, with `compile` scaling the loss; "mixed_bfloat16", for newer
            GPUs and TPUs; "onednn_bfloat16", for CPUs with AVX512-BF16 or AMX, where TensorFlow computes convolutions
            in bfloat16 by itself (it would do so with the products of heads too, and is told not to); "auto",
            on TensorFlow mixed_float16 with a GPU, onednn_bfloat16 with such a CPU; otherwise float32.

    Returns:
        What was set, for "auto" what was chosen.

    Raises:
        ValueError: for another name, or onednn_bfloat16 on another backend than TensorFlow.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision expects one of {', '.join(PRECISIONS)}. Received: {precision!r}")
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if precision == "auto":
        precision = "float32"
        if on_tensorflow and tf.config.list_physical_devices("GPU"):
            precision = "mixed_float16"
        elif on_tensorflow and _cpu_has_bfloat16():
            precision = "onednn_bfloat16"
    if precision == "onednn_bfloat16" and not on_tensorflow:
        raise ValueError(
            f"precision='onednn_bfloat16' is TensorFlow's. Received: the backend {keras.backend.backend()}"
        )
    if on_tensorflow:
        rewrite = precision == "onednn_bfloat16"
        if rewrite:
            _leave_in_float32()
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": rewrite})
    keras.config.set_dtype_policy("float32" if precision == "onednn_bfloat16" else precision)
    return precision


def _leave_in_float32() -> None:
    """Takes operations off the list of those that are turned to bfloat16. TensorFlow reads it with every graph."""
    name = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_ALLOWLIST_REMOVE"
    others = [other for other in os.environ.get(name, "").split(",") if other and other not in _IN_FLOAT32.split(",")]
    os.environ[name] = ",".join([*others, _IN_FLOAT32])


def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16, as Linux tells it."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
