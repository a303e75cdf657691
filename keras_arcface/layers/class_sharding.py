"""Sharding of class centers over devices, with `keras.distribution`."""

import contextlib
import threading

import keras

_scope = threading.local()


@contextlib.contextmanager
def class_axis():
    """Marks the variables created in this context as having classes on their first axis."""
    _scope.active = True
    try:
        yield
    finally:
        _scope.active = False


def mark_class_axis(variable):
    """Marks a variable as having classes on its first axis."""
    variable.has_class_axis = True


def has_class_axis(variable):
    """Returns true if the first axis of a variable, or of the variable under construction, is the class axis."""
    return getattr(_scope, "active", False) or getattr(variable, "has_class_axis", False)


def num_shards(centers):
    """Returns the number of equal shards of the classes in the current distribution."""
    distribution = keras.distribution.distribution()
    layout = None if distribution is None else distribution.get_variable_layout(centers)
    axis = None if layout is None else layout.axes[0]
    if axis is None:
        return 1
    mesh = layout.device_mesh
    return mesh.shape[mesh.axis_names.index(axis)]


def distribute_batch(path, tensor):
    """Distributes embeddings or labels over devices with the layout `PATH/batch` of the distribution, if it exists.

    If both the batch and the classes are sharded over the same devices, one of them must be gathered. The layout makes
    it the batch, because XLA would gather the centers.
    """
    distribution = keras.distribution.distribution()
    layout = None if distribution is None else distribution.get_tensor_layout(f"{path}/batch")
    if layout is None:
        return tensor
    # The gradient needs this layout too. Without it, every device would run the embedder on the whole batch.
    tensor = keras.distribution.distribute_tensor(tensor, distribution.get_data_layout(tensor.shape))
    return keras.distribution.distribute_tensor(tensor, layout)
