"""All uses of the private API of TensorFlow and Keras. `tests/test_private_api.py` detects changes of it."""

from typing import Any


def is_in_xla_context() -> bool:
    """Returns whether XLA will compile the graph that TensorFlow traces, or a parent of it."""
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def xla_dynamic_update_slice(array: Any, update: Any, start_indices: Any) -> Any:
    """Returns a copy of an array with a replaced slice, inside a function that XLA compiles."""
    from tensorflow.compiler.tf2xla.python import xla

    return xla.dynamic_update_slice(array, update, start_indices)


def xla_round_to_bfloat16(array: Any) -> Any:
    """Returns a float32 array rounded to bfloat16, inside a function that XLA compiles, which may remove two casts."""
    from tensorflow.compiler.tf2xla.python import xla

    return xla.reduce_precision(array, exponent_bits=8, mantissa_bits=7)


def freeze_variables(concrete_function: Any, **options: Any) -> Any:
    """Returns a concrete TensorFlow function with its variables converted to constants.

    Args:
        concrete_function: concrete function with variables.
        **options: options of `convert_variables_to_constants_v2`.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete_function, **options)


def inbound_nodes(layer: Any) -> list:
    """Returns the nodes of a Keras layer, one per symbolic call."""
    return layer._inbound_nodes


def are_all_layers_built(layer: Any) -> bool:
    """Returns whether a Keras layer and all layers in it, at any depth, are built."""
    return all(inner.built for inner in layer._flatten_layers())


def training_of_current_call() -> bool | None:
    """Returns the `training` argument of the current Keras layer call; None outside of a call."""
    from keras.src.backend.common import global_state

    return getattr(global_state.get_global_attribute("current_call_ctx"), "training", None)


def optimizer_slots(optimizer: Any, variable: Any) -> list:
    """Returns the slots of a Keras optimizer for one of its variables, such as the momentum, in order of creation.

    Optimizers store one list per type of slot, with an entry per variable. Moving averages of the weights are excluded.
    """
    slots = []
    for part in nested_optimizers(optimizer):
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
    """Returns whether a Keras optimizer, or one nested in it, accumulates gradients over several steps."""
    parts = nested_optimizers(optimizer)
    return any(max(part.gradient_accumulation_steps or 1, getattr(part, "accumulation_steps", 1)) > 1 for part in parts)


def nested_optimizers(optimizer: Any) -> list:
    """Returns a Keras optimizer and all optimizers nested in it, such as those of a MultiOptimizer."""
    import keras

    inner: list = []
    for value in vars(optimizer).values():
        values = value if isinstance(value, (list, tuple)) else [value]
        inner += [v for v in values if isinstance(v, keras.optimizers.Optimizer) and v is not optimizer]
    return [optimizer, *(part for value in inner for part in nested_optimizers(value))]


def compile_arguments(model: Any) -> dict:
    """Returns the `compile` arguments of a Keras model; an empty dictionary for a model that is not compiled."""
    return model._compile_config.config if model.compiled else {}


def variable_index(optimizer: Any, variable: Any) -> int:
    """Returns the index of a variable in the variables of a Keras optimizer.

    The variable in `update_step` may be the copy of one replica, which only the optimizer can identify.
    """
    return optimizer._get_variable_index(variable)


def variables_to_update(optimizer: Any) -> list:
    """Returns the trainable variables of a Keras optimizer, in the order of its `build` call."""
    return optimizer._trainable_variables
