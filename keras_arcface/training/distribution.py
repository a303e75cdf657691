"""Several machines, or more classes than one device holds: the JAX backend and `keras.distribution`.

Every device of every host takes its part of the batch through the embedder. The class centers, and the optimizer's
slots for them, can be split over devices too: then each meets the embeddings of all that it shares the classes with.
What is sent for that is embeddings and a few floats per example, never the centers. With a `sample_rate` below 1 each
device draws some of its own classes; their numbers, not their centers, are sent too.
"""

import math

import keras

# Axes of the mesh. Devices along CLASSES hold different classes, devices along DATA the same ones.
DATA, CLASSES = "data", "classes"


class ClassParallel(keras.distribution.ModelParallel):
    """Splits the batch over all devices, and the class centers into shards. JAX backend only.

    Make it the distribution before anything else of Keras is made:

    >>> keras.distribution.initialize("10.0.0.1:1234", num_processes=2, process_id=0)  # on several hosts
    >>> keras.distribution.set_distribution(ClassParallel(class_shards=8))
    >>> images = load_dataset(directory, batch_size // 2, training=True, host=0, num_hosts=2)

    The batch is put together from what each host gives, which is its share already: Keras is told not to take a share
    of it once more. The sum over hosts must be divisible by the number of devices. Batch statistics and metrics are
    those of the whole batch, as it is one program.

    Args:
        class_shards: into how many shards the centers are split, a divisor of the number of devices. With 1 every
            device has all of them, and this is plain data parallelism. With more a device holds, and updates,
            `num_classes / class_shards` of them. Devices that follow each other share the classes, so those of one
            host if there are enough.
        devices: names, as from `keras.distribution.list_devices()`, which is the default: all devices of all hosts.

    Raises:
        RuntimeError: under another backend.
        ValueError: if `class_shards` does not divide the number of devices; when a head is built, if it does not
            divide the number of classes. Some more classes without images (`divisible_classes`) are no harm.
    """

    def __init__(self, class_shards: int = 1, devices=None):
        if keras.backend.backend() != "jax":
            raise RuntimeError(
                "keras.distribution needs the JAX backend: set KERAS_BACKEND=jax before Keras is imported. "
                f"Received: {keras.backend.backend()!r}"
            )
        devices = list(devices or keras.distribution.list_devices())
        if class_shards < 1 or len(devices) % class_shards:
            raise ValueError(
                f"class_shards must divide the number of devices, {len(devices)}. Received: class_shards={class_shards}"
            )
        self.class_shards = class_shards
        mesh = keras.distribution.DeviceMesh((len(devices) // class_shards, class_shards), (DATA, CLASSES), devices)
        super().__init__(layout_map=head_layout(mesh), batch_dim_name=DATA, auto_shard_dataset=False)

    @property
    def num_model_replicas(self) -> int:
        """Into how many parts the batch is split: one per device, whatever part of the classes it has."""
        return self.device_mesh.devices.size

    def get_data_layout(self, data_shape):
        return _OverAllDevices([None] * len(data_shape), self.device_mesh)

    def get_variable_layout(self, variable):
        layout = super().get_variable_layout(variable)
        if CLASSES in layout.axes and variable.shape[0] % self.class_shards:
            raise ValueError(
                f"{self.class_shards} shards cannot have equally many of {variable.shape[0]} classes. Expected: a "
                f"multiple, such as num_classes={divisible_classes(variable.shape[0], self.class_shards)} (the last "
                f"classes may be without images). Received: {variable.path} of shape {tuple(variable.shape)}"
            )
        return layout


def head_layout(mesh) -> keras.distribution.LayoutMap:
    """What is split, and how, on a mesh with the axes "data" and "classes"; all else is on every device.

    An optimizer's slots follow their variable by themselves. `PATH/batch` is what a head asks for to lay out
    embeddings and labels before they meet the centers.
    """
    layout = keras.distribution.LayoutMap(mesh)
    layout[r".*/centers(_slot_\d+)?"] = (CLASSES,)
    layout[".*/sample"] = (CLASSES,)
    layout[".*/batch"] = (DATA,)
    return layout


def divisible_classes(num_classes: int, class_shards: int) -> int:
    """The least number of classes, `num_classes` or more, that so many shards can have equally many of."""
    return math.ceil(num_classes / class_shards) * class_shards


class _OverAllDevices(keras.distribution.TensorLayout):
    """The first dimension split over both axes of the mesh. Keras' own layouts split a dimension over one."""

    @property
    def backend_layout(self):
        import jax

        both = jax.sharding.PartitionSpec(tuple(self.device_mesh.axis_names))
        return jax.sharding.NamedSharding(self.device_mesh.backend_mesh, both)
