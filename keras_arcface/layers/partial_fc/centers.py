"""The class centers of which each training step uses a sample, with the optimizer's slots for them."""

import math

import keras
from keras import ops

from keras_arcface import _private_api
from keras_arcface.layers import class_sharding
from keras_arcface.layers import validation
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.partial_fc import sampler

_STATE = {"initializer": "zeros", "aggregation": "only_first_replica", "trainable": False}


class PartialFC(keras.layers.Layer):
    """All class centers, and the sample of them that a training step updates.

    The optimizer knows the sample only. A step of `RecognitionModel` draws a sample, trains it, and stores it with the
    optimizer's slots where it came from, so that a step costs what the sample costs.

    Args:
        num_classes: number of classes.
        center_shape: shape of one class's centers, `(dim,)` or `(sub_centers, dim)`.
        sample_rate: share of the classes that a step uses, in (0, 1).
        seed: Python integer. The classes of a step are a function of it and of the step.
        initializer: initializer of the centers.
        **kwargs: arguments of `keras.layers.Layer`.

    Attributes:
        centers: non-trainable weight `(num_classes, *center_shape)`, all centers.
        sample: trainable weight `(size, *center_shape)`, the centers of the step.
        sampled_ids: non-trainable int32 weight `(size,)`, the classes of the step, ascending.
        slots: the optimizer's slots for all centers, one weight per slot; empty before `connect`.

    References:
        - [Partial FC](https://arxiv.org/abs/2203.15565)
    """

    def __init__(self, num_classes, center_shape, sample_rate, seed, initializer, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.center_shape = num_classes, tuple(center_shape)
        self.sample_rate, self.seed, self.initializer = sample_rate, seed, initializer
        self._all_slots = _Slots(dtype=self.dtype_policy, name="slots")
        self._connection = _Connection()

    def build(self):
        shape = (self.num_classes, *self.center_shape)
        with class_sharding.class_axis():
            self.centers = self.add_weight(name="centers", shape=shape, initializer=self.initializer, trainable=False)
            class_sharding.mark(self.centers)
            shards = class_sharding.num_shards(self.centers)
            size = shards * math.ceil(self.sample_rate * self.num_classes / shards)
            self.sample = self.add_weight(name="sample", shape=(size, *self.center_shape), initializer="zeros")
        class_sharding.mark(self.sample)
        self.sampled_ids = self.add_weight(name="sampled_ids", shape=(size,), dtype="int32", **_STATE)

    @property
    def slots(self):
        return self._all_slots.weights

    def build_slots(self, count):
        """Creates the storage for `count` optimizer slots per center."""
        if not self._all_slots.built:
            self._all_slots.build(count, self.centers.shape)

    def connect(self, optimizer):
        """Finds the optimizer's slots for the sample, and creates storage for those of all centers.

        A slot is storage of the optimizer for each weight, such as the momentum. An optimizer that has made no step
        starts with slots of zeros.

        Args:
            optimizer: built with `sample` among its variables.

        Raises:
            NotImplementedError: on a backend other than TensorFlow and JAX.
            ValueError: for an optimizer that accumulates gradients, has slots of another shape than the weight, or
                another number of slots than the one before.
        """
        if optimizer is self._connection.optimizer:
            return
        if keras.backend.backend() not in ("tensorflow", "jax"):
            raise NotImplementedError(
                "A sample_rate below 1 requires the TensorFlow or JAX backend. "
                f"Received: the backend {keras.backend.backend()}"
            )
        if _private_api.accumulates_gradients(optimizer):
            raise ValueError(
                "A sample_rate below 1 cannot be used with gradient accumulation: the steps would add up gradients of "
                f"different classes. Received: optimizer={optimizer!r}"
            )
        slots = _private_api.optimizer_slots(optimizer, self.sample)
        for slot in slots:
            if tuple(slot.shape) != tuple(self.sample.shape):
                raise ValueError(
                    "A sample_rate below 1 requires an optimizer whose slots have the shape of the weight, such as SGD "
                    f"or Adam. Received: {type(optimizer).__name__} with the slot {slot.name} of shape "
                    f"{tuple(slot.shape)} for a weight of shape {tuple(self.sample.shape)}"
                )
        self.build_slots(len(slots))
        if len(slots) != len(self.slots):
            raise ValueError(
                f"The centers have {len(self.slots)} optimizer slot(s) each, from the optimizer before. Expected: an "
                f"optimizer with as many, or a new head. Received: {type(optimizer).__name__} with {len(slots)}"
            )
        if int(ops.convert_to_numpy(optimizer.iterations)) == 0:
            for slot in self.slots:
                slot.assign(ops.zeros(slot.shape, slot.dtype))
        self._connection.optimizer, self._connection.slots = optimizer, slots

    def draw(self, labels, step):
        """Draws the classes of a step, and loads their centers and slots into the sample.

        Args:
            labels: integer tensor `(batch,)`; of this replica if there are several.
            step: integer scalar.

        Raises:
            ValueError: for a batch that may have more classes than are drawn. Where its size is unknown, a class that
                does not fit makes the loss NaN.
        """
        backend = backends.current()
        labels, _ = validation.check_labels(self, labels, labels)
        labels, size, shards = backend.gather_replicas(labels), self.sample.shape[0], self._shards()
        if labels.shape[0] is not None and labels.shape[0] > size // shards:
            raise ValueError(
                f"sample_rate={self.sample_rate} of {self.num_classes} classes in {shards} shard(s) are "
                f"{size // shards} of each, fewer than a batch may have. Expected: a sample_rate of at least "
                f"{labels.shape[0] * shards / self.num_classes:.3g}, or smaller batches. Received: a batch of "
                f"{labels.shape[0]}"
            )
        ids = sampler.draw(labels, self.num_classes, size, self.seed, ops.cast(step, "int32"), shards)
        backend.assign(self.sampled_ids, ids)
        for whole, part in self._pairs():
            backend.assign(part, backend.take_rows(whole, ids, shards))

    def store(self):
        """Writes the centers and slots of the sample to where they came from."""
        backend = backends.current()
        for whole, part in self._pairs():
            backend.put_rows(whole, backend.read(self.sampled_ids), backend.read(part), self._shards())

    def locate(self, labels):
        """Returns the positions of labels in the sample, and which labels are in it."""
        positions = sampler.positions(self.sampled_ids, labels)
        return positions, ops.equal(ops.take(self.sampled_ids, positions), labels)

    def _pairs(self):
        return zip([self.centers, *self.slots], [self.sample, *self._connection.slots], strict=True)

    def _shards(self):
        return class_sharding.num_shards(self.centers)


class _Connection:
    """The optimizer and its slots for the sample; a plain object, as Keras tracks variables in attributes of layers."""

    def __init__(self):
        self.optimizer, self.slots = None, []


class _Slots(keras.layers.Layer):
    """Storage for the optimizer's slots, a layer of its own because it is built later than the centers."""

    def build(self, count, shape):
        for index in range(count):
            with class_sharding.class_axis():
                class_sharding.mark(self.add_weight(name=f"slot_{index}", shape=shape, **_STATE))
        self.built = True
