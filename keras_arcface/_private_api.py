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


def optimizer_slots(optimizer: Any, variable: Any) -> list:
    """Returns what a Keras optimizer keeps for one of its variables, such as the momentum, in order of creation.

    Optimizers keep one list per kind of slot, with an entry per variable. Moving averages of the weights do not count.
    """
    slots = []
    for part in optimizer_parts(optimizer):
        index = part._trainable_variables_indices.get(part._var_key(variable))
        if index is None:
            continue
        lists = {
            name: value
            for name, value in vars(part).items()
            if isinstance(value, (list, tuple)) and len(value) == len(part._trainable_variables_indices)
        }
        for name in ("_trainable_variables", "_model_variables_moving_average", "_accumulated_gradients"):
            lists.pop(name, None)
        found = {id(value[index]) for value in lists.values()}
        slots += [slot for slot in part._variables if id(slot) in found]
    return slots


def accumulates_gradients(optimizer: Any) -> bool:
    """Returns whether a Keras optimizer, or one inside it, sums gradients over several steps."""
    parts = optimizer_parts(optimizer)
    return any(max(part.gradient_accumulation_steps or 1, getattr(part, "accumulation_steps", 1)) > 1 for part in parts)


def optimizer_parts(optimizer: Any) -> list:
    """Returns a Keras optimizer and all optimizers inside it, such as those of a MultiOptimizer."""
    import keras

    inner: list = []
    for value in vars(optimizer).values():
        values = value if isinstance(value, (list, tuple)) else [value]
        inner += [v for v in values if isinstance(v, keras.optimizers.Optimizer) and v is not optimizer]
    return [optimizer, *(part for value in inner for part in optimizer_parts(value))]


def compile_arguments(model: Any) -> dict:
    """Returns what a Keras model's `compile` was called with; nothing for a model that is not compiled."""
    return model._compile_config.config if model.compiled else {}


def variable_index(optimizer: Any, variable: Any) -> int:
    """Returns the index of a variable among those that a Keras optimizer was built with.

    The variable that `update_step` receives may be the copy of one replica, which only the optimizer can identify.
    """
    return optimizer._get_variable_index(variable)


def variables_to_update(optimizer: Any) -> list:
    """Returns the variables that a Keras optimizer was built with."""
    return optimizer._trainable_variables
