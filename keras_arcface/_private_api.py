"""Every use of private TensorFlow and Keras API. `tests/test_private_api.py` says which release breaks one."""

from typing import Any


def is_in_xla_context() -> bool:
    """Returns whether the code that TensorFlow traces now will be compiled by XLA, as a whole or as a part."""
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def xla_dynamic_update_slice(array: Any, update: Any, start_indices: Any) -> Any:
    """Returns an array with a slice replaced; only inside a function that XLA compiles."""
    from tensorflow.compiler.tf2xla.python import xla

    return xla.dynamic_update_slice(array, update, start_indices)


def freeze_variables(concrete_function: Any, **options: Any) -> Any:
    """Returns a concrete TensorFlow function whose variables became constants; options as of TensorFlow's function."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete_function, **options)


def inbound_nodes(layer: Any) -> list:
    """Returns one node per symbolic call of a Keras layer."""
    return layer._inbound_nodes


def training_of_current_call() -> bool | None:
    """Returns the `training` argument of the Keras layer call that runs now, or None outside of one."""
    from keras.src.backend.common import global_state

    return getattr(global_state.get_global_attribute("current_call_ctx"), "training", None)
