"""Class centers that lie in shards on several devices, by `keras.distribution`."""

import contextlib
import threading

import keras

_scope = threading.local()


@contextlib.contextmanager
def class_axis():
    """Marks the variables that are created inside as having classes on their first axis."""
    _scope.active = True
    try:
        yield
    finally:
        _scope.active = False


def mark(variable):
    """Marks a variable as having classes on its first axis."""
    variable.has_class_axis = True


def has_class_axis(variable):
    """Returns whether the first axis of a variable, which may be in creation, is classes."""
    return getattr(_scope, "active", False) or getattr(variable, "has_class_axis", False)


def num_shards(centers):
    """Returns in how many equal parts the current distribution puts the classes on devices."""
    distribution = keras.distribution.distribution()
    layout = None if distribution is None else distribution.get_variable_layout(centers)
    axis = None if layout is None else layout.axes[0]
    if axis is None:
        return 1
    mesh = layout.device_mesh
    return mesh.shape[mesh.axis_names.index(axis)]


def with_centers_layout(path, tensor):
    """Lays out embeddings or labels over devices as the distribution says for `PATH/batch`, if it does.

    Where the same devices share both the batch and the classes, one of them must be gathered. It must be the batch;
    XLA, left to choose, would gather the centers.
    """
    distribution = keras.distribution.distribution()
    layout = None if distribution is None else distribution.get_tensor_layout(f"{path}/batch")
    if layout is None:
        return tensor
    # The gradient takes the same way back: without this, every device would run the embedder on the whole batch.
    tensor = keras.distribution.distribute_tensor(tensor, distribution.get_data_layout(tensor.shape))
    return keras.distribution.distribute_tensor(tensor, layout)
