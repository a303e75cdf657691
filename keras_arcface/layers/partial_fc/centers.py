"""Class centers for training steps that use a sample of them, and their optimizer slots."""

import keras
from keras import ops

from keras_arcface import _private_api
from keras_arcface.layers import class_sharding
from keras_arcface.layers import validation
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.partial_fc import sampler

_STATE = {"initializer": "zeros", "aggregation": "only_first_replica", "trainable": False}


class PartialFC(keras.layers.Layer):
    """Storage of all class centers, and the sample of them that a training step updates.

    Only the sample is a variable of the optimizer. A step of `RecognitionModel` draws a sample, trains it, and writes
    it and its optimizer slots back to the storage, so that the cost of a step depends on the size of the sample only.

    Args:
        num_classes: number of classes.
        center_shape: shape of the centers of one class, `(dim,)` or `(sub_centers, dim)`.
        sample_rate: fraction of the classes in a step, in (0, 1).
        groups: number of equal groups of consecutive classes, each with the same number of sampled classes. A divisor
            of `num_classes` and a multiple of the number of shards of the centers.
        seed: Python integer. The sampled classes depend only on the seed, the groups, the step and its labels.
        initializer: initializer of the centers.
        **kwargs: arguments of `keras.layers.Layer`.

    Attributes:
        centers: non-trainable weight `(num_classes, *center_shape)` with all centers.
        sample: trainable weight `(size, *center_shape)` with the centers of the step.
        sampled_ids: non-trainable int32 weight `(size,)` with the sorted class ids of the step.
        slots: list of weights with the optimizer slots of all centers, one per slot; empty before `connect`.

    References:
        - [Partial FC](https://arxiv.org/abs/2203.15565)
    """

    def __init__(self, num_classes, center_shape, sample_rate, groups, seed, initializer, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.center_shape = num_classes, tuple(center_shape)
        self.sample_rate, self.groups = sample_rate, groups
        self.seed, self.initializer = seed, initializer
        self._all_slots = _Slots(dtype=self.dtype_policy, name="slots")
        self._connection = _Connection()

    def build(self):
        shape = (self.num_classes, *self.center_shape)
        with class_sharding.class_axis():
            self.centers = self.add_weight(name="centers", shape=shape, initializer=self.initializer, trainable=False)
            class_sharding.mark_class_axis(self.centers)
            self._check_groups()
            size = sampler.sample_size(self.num_classes, self.sample_rate, self.groups)
            self.sample = self.add_weight(name="sample", shape=(size, *self.center_shape), initializer="zeros")
        class_sharding.mark_class_axis(self.sample)
        self.sampled_ids = self.add_weight(name="sampled_ids", shape=(size,), dtype="int32", **_STATE)

    @property
    def slots(self):
        return self._all_slots.weights

    def build_slots(self, count):
        """Creates the storage for `count` optimizer slots per center."""
        if not self._all_slots.built:
            self._all_slots.build(count, self.centers.shape)

    def connect(self, optimizer):
        """Finds the optimizer slots of the sample, and creates storage for the slots of all centers.

        A slot is a variable that the optimizer has for each weight, such as the momentum. With an optimizer that has
        not made a step, all slots are set to zero.

        Args:
            optimizer: optimizer that was built with `sample` among its variables.

        Raises:
            NotImplementedError: on a backend other than TensorFlow and JAX.
            ValueError: if the optimizer accumulates gradients, has slots of another shape than the weight, or has
                another number of slots than the previous optimizer.
        """
        if optimizer is self._connection.optimizer:
            return
        if keras.backend.backend() not in ("tensorflow", "jax"):
            raise NotImplementedError(
                "The backend must be TensorFlow or JAX with a sample_rate below 1. "
                f"Received: backend {keras.backend.backend()!r}"
            )
        if _private_api.accumulates_gradients(optimizer):
            raise ValueError(
                "optimizer must not use gradient accumulation with a sample_rate below 1, because it would add "
                f"gradients of different classes. Received: optimizer={optimizer!r}"
            )
        slots = _private_api.optimizer_slots(optimizer, self.sample)
        for slot in slots:
            if tuple(slot.shape) != tuple(self.sample.shape):
                raise ValueError(
                    "optimizer must be one whose slots have the shape of the weight, such as SGD or Adam, with a "
                    f"sample_rate below 1. Received: {type(optimizer).__name__} with the slot {slot.name} of shape "
                    f"{tuple(slot.shape)} for a weight of shape {tuple(self.sample.shape)}"
                )
        self.build_slots(len(slots))
        if len(slots) != len(self.slots):
            raise ValueError(
                f"The centers have {len(self.slots)} optimizer slot(s) each, from the previous optimizer. Expected: an "
                "optimizer with the same number of slots, or a new head. "
                f"Received: {type(optimizer).__name__} with {len(slots)} slot(s)"
            )
        if int(ops.convert_to_numpy(optimizer.iterations)) == 0:
            for slot in self.slots:
                slot.assign(ops.zeros(slot.shape, slot.dtype))
        self._connection.optimizer, self._connection.slots = optimizer, slots

    def draw(self, labels, step):
        """Samples the classes of a step, and copies their centers and slots to the sample.

        Args:
            labels: integer tensor `(batch,)` with the labels of the current replica.
            step: integer scalar, the index of the training step.

        Raises:
            ValueError: if the batch can contain more classes than the sample of a group. If the batch size is unknown,
                the loss is NaN instead for labels outside of the sample.
        """
        backend = backends.current()
        labels, _ = validation.check_labels(self, labels, labels)
        labels, size, groups = backend.gather_replicas(labels), self.sample.shape[0], self.groups
        if labels.shape[0] is not None and labels.shape[0] > size // groups:
            raise ValueError(
                f"The sample of a group has {size // groups} classes, but a batch can contain more. Expected: a "
                f"sample_rate of at least {labels.shape[0] * groups / self.num_classes:.3g} with {self.num_classes} "
                f"classes and sample_groups={groups}, or a smaller batch. Received: a batch of {labels.shape[0]} with "
                f"sample_rate={self.sample_rate}"
            )
        ids = sampler.draw(labels, self.num_classes, size, self.seed, ops.cast(step, "int32"), groups)
        backend.assign(self.sampled_ids, ids)
        for stored, sampled in self._stored_and_sampled():
            backend.assign(sampled, backend.take_rows(stored, ids, self._shards()))

    def store(self):
        """Writes the centers and slots of the sample back to those of all centers."""
        backend = backends.current()
        for stored, sampled in self._stored_and_sampled():
            backend.put_rows(stored, backend.read(self.sampled_ids), backend.read(sampled), self._shards())

    def locate(self, labels):
        """Returns the positions of labels in the sample, and a mask of the labels in the sample."""
        positions = sampler.positions(self.sampled_ids, labels)
        return positions, ops.equal(ops.take(self.sampled_ids, positions), labels)

    def _stored_and_sampled(self):
        return zip([self.centers, *self.slots], [self.sample, *self._connection.slots], strict=True)

    def _check_groups(self):
        shards = self._shards()
        if self.groups % shards:
            raise ValueError(
                f"sample_groups must be a multiple of the number of class shards, {shards}, because every shard "
                f"samples the same number of its own classes. Received: sample_groups={self.groups}"
            )

    def _shards(self):
        return class_sharding.num_shards(self.centers)


class _Connection:
    """Optimizer and its slots for the sample.

    It is a plain object, because Keras would track variables in the attributes of a layer.
    """

    def __init__(self):
        self.optimizer, self.slots = None, []


class _Slots(keras.layers.Layer):
    """Storage of the optimizer slots of all centers.

    It is a separate layer, because it is built after the centers.
    """

    def build(self, count, shape):
        for index in range(count):
            with class_sharding.class_axis():
                class_sharding.mark_class_axis(self.add_weight(name=f"slot_{index}", shape=shape, **_STATE))
        self.built = True
