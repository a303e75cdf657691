"""Training on several machines, or with more classes than a device can store, with `keras.distribution` on JAX.

Each device of each host computes the embeddings of its part of the batch. The class centers and their optimizer slots
can be sharded over devices. Each device then gathers the embeddings of all devices that store the other shards. Only
the embeddings and a few floats per example are sent, never the centers. With a `sample_rate` below 1, each device
samples some of its own classes, and the class ids are sent too. A training can continue with another number of hosts,
devices and shards.
"""

import keras

from keras_arcface import _arguments
from keras_arcface.layers import class_sharding

# Axes of the device mesh. Devices along CLASSES store different classes, devices along DATA the same classes.
DATA, CLASSES = "data", "classes"


class ClassParallel(keras.distribution.ModelParallel):
    """Distribution that splits the batch over all devices, and the class centers into shards. JAX backend only.

    Use it for training on several hosts, or if the class centers do not fit into the memory of one device. Set it
    before any other Keras object is created. On several hosts, first call `keras.distribution.initialize`. The global
    batch is the concatenation of the batches of all hosts. Its size must be divisible by the number of devices.
    BatchNorm statistics and metrics are those of the global batch.

    Args:
        class_shards: number of shards of the centers, a divisor of the number of devices. With 1, every device stores
            all centers, which is plain data parallelism. Otherwise, a device stores and updates
            `num_classes / class_shards` centers. Consecutive devices store the shards, so that they belong to one host
            if it has enough devices.
        devices: device names from `keras.distribution.list_devices()`; None for all devices of all hosts.

    Raises:
        RuntimeError: on another backend.
        ValueError: if `class_shards` does not divide the number of devices; when a head is built, if it does not divide
            the number of classes and its `sample_groups`. `round_up_classes` returns a divisible number.

    Examples:
        Two hosts, of which this is the first, with eight devices together (these lines require such hosts):

        >>> keras.distribution.initialize("10.0.0.1:1234", num_processes=2, process_id=0)  # doctest: +SKIP
        >>> keras.distribution.set_distribution(ClassParallel(class_shards=8))  # doctest: +SKIP
        >>> head = ArcFace(round_up_classes(93_431, class_shards=8))  # doctest: +SKIP
        >>> images = load_dataset("ms1m", batch_size=256, training=True, host=0, num_hosts=2)  # doctest: +SKIP

    References:
        - [Partial FC](https://arxiv.org/abs/2203.15565) describes the split of the centers over devices
    """

    def __init__(self, class_shards: int = 1, devices=None):
        if keras.backend.backend() != "jax":
            raise RuntimeError(
                "ClassParallel requires the jax backend: set KERAS_BACKEND=jax before importing Keras. "
                f"Received: backend={keras.backend.backend()!r}"
            )
        devices = list(devices or keras.distribution.list_devices())
        if class_shards < 1 or len(devices) % class_shards:
            raise ValueError(
                f"class_shards must divide the number of devices, {len(devices)}. Received: class_shards={class_shards}"
            )
        self.class_shards = class_shards
        mesh = keras.distribution.DeviceMesh((len(devices) // class_shards, class_shards), (DATA, CLASSES), devices)
        layout_map = keras.distribution.LayoutMap(mesh)
        layout_map[".*/batch"] = (DATA,)  # heads use it as the layout of embeddings and labels
        super().__init__(layout_map=layout_map, batch_dim_name=DATA, auto_shard_dataset=False)

    @property
    def num_model_replicas(self) -> int:
        """Number of parts of the batch, one per device."""
        return self.device_mesh.devices.size

    def get_data_layout(self, data_shape):
        return _AllDevicesLayout([None] * len(data_shape), self.device_mesh)

    def get_variable_layout(self, variable):
        if not class_sharding.has_class_axis(variable):
            return super().get_variable_layout(variable)
        num_classes = variable.shape[0]
        if num_classes % self.class_shards:
            raise ValueError(
                f"The number of classes must be divisible by class_shards={self.class_shards}. Expected: a multiple, "
                f"such as num_classes={round_up_classes(num_classes, self.class_shards)} (the last classes may have "
                f"no images). Received: {variable.path} of shape {tuple(variable.shape)}"
            )
        axes = (CLASSES, *[None] * (len(variable.shape) - 1))
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def round_up_classes(num_classes: int, class_shards: int) -> int:
    """Returns the smallest multiple of `class_shards` that is at least `num_classes`.

    `ClassParallel` requires such a number of classes. The additional classes have no images. A training that may
    continue with other numbers of shards requires a common multiple of them, such as 64.

    Args:
        num_classes: number of classes of the dataset.
        class_shards: number of shards of `ClassParallel`.

    Returns:
        The number of classes for the head.

    Raises:
        ValueError: if a number is not an integer of at least 1.

    Examples:
        >>> round_up_classes(93_431, class_shards=8)
        93432
    """
    _arguments.check_integer("num_classes", num_classes, 1)
    _arguments.check_integer("class_shards", class_shards, 1)
    return -(-num_classes // class_shards) * class_shards


class _AllDevicesLayout(keras.distribution.TensorLayout):
    """Layout that splits the first dimension over both axes of the mesh, unlike the layouts of Keras."""

    @property
    def backend_layout(self):
        import jax

        both = jax.sharding.PartitionSpec(tuple(self.device_mesh.axis_names))
        return jax.sharding.NamedSharding(self.device_mesh.backend_mesh, both)
