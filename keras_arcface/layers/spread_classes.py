"""Centers of which a training step sees a part, and centers that lie on several devices."""

import math

import keras
from keras import ops

from keras_arcface.layers import kernels
from keras_arcface.layers import parts
from keras_arcface.layers import sampling


class SpreadClasses(keras.layers.Layer):
    """What a head knows of where its classes are.

    A head has `centers`, `steps`, `num_classes`, `sample_rate`, `sample_slots` and `sample_seed`; here are `sample`,
    `sampled_ids` and `slots`, which it has where it samples.
    """

    @property
    def samples(self):
        """Whether a training step looks at some of the classes only."""
        return self.sample_rate < 1

    def draw_sample(self, labels, optimizer_slots):
        """Draws the classes of a training step. Their centers, and the optimizer's slots for them, become `sample`.

        `RecognitionModel` does it, as a step begins.

        Args:
            labels: integer tensor `(batch,)`; of this replica where there are several.
            optimizer_slots: variables of the shape of `sample`, as many as `sample_slots`.

        Raises:
            ValueError: for a batch that may have more classes than are drawn. Where its size is not known
                beforehand, what is not drawn makes the loss NaN.
        """
        kernel = kernels.here()
        labels, _ = parts.check_labels(self, labels, labels)
        labels, size, shards = kernel.of_all_replicas(labels), self.sample.shape[0], self._shards()
        if labels.shape[0] is not None and labels.shape[0] > size // shards:
            raise ValueError(
                f"sample_rate={self.sample_rate} of {self.num_classes} classes in {shards} shard(s) are "
                f"{size // shards} of each, fewer than may be in a batch. Expected: a sample_rate of at least "
                f"{labels.shape[0] * shards / self.num_classes:.3g}, or smaller batches. Received: a batch of "
                f"{labels.shape[0]}"
            )
        step = ops.cast(self.steps, "int32")
        ids = sampling.draw(labels, self.num_classes, size, self.sample_seed, step, shards)
        kernel.assign(self.sampled_ids, ids)
        for whole, part in zip([self.centers, *self.slots], [self.sample, *optimizer_slots], strict=True):
            kernel.assign(part, kernel.take(whole, ids, shards))

    def return_sample(self, optimizer_slots):
        """Writes the centers of `sample`, and the optimizer's slots for them, to where they came from."""
        kernel = kernels.here()
        for whole, part in zip([self.centers, *self.slots], [self.sample, *optimizer_slots], strict=True):
            kernel.put(whole, kernel.read(self.sampled_ids), kernel.read(part), self._shards())

    def _make_room_for_samples(self):
        """Weights for what is drawn, when the centers are there."""
        shards = self._shards()
        size = shards * math.ceil(self.sample_rate * self.num_classes / shards)
        state = {"initializer": "zeros", "aggregation": "only_first_replica", "trainable": False}
        self.sample = self.add_weight(name="sample", shape=(size, *self.centers.shape[1:]), initializer="zeros")
        self.sampled_ids = self.add_weight(name="sampled_ids", shape=(size,), dtype="int32", **state)
        self.slots = [
            self.add_weight(name=f"centers_slot_{i}", shape=self.centers.shape, **state)
            for i in range(self.sample_slots)
        ]

    def _shards(self):
        """In how many equal parts a `keras.distribution.LayoutMap` puts the classes on devices."""
        distribution = keras.distribution.distribution()
        layout = None if distribution is None else distribution.get_variable_layout(self.centers)
        axis = None if layout is None else layout.axes[0]
        if axis is None:
            return 1
        mesh = layout.device_mesh
        return mesh.shape[mesh.axis_names.index(axis)]

    def _beside_centers(self, tensor):
        """Lays out embeddings or labels over devices as a `keras.distribution.LayoutMap` says for `PATH/batch`, if so.

        Where the same devices share both the batch and the classes, one of them must be gathered. It must be the batch;
        XLA, left to choose, takes the centers.
        """
        distribution = keras.distribution.distribution()
        layout = None if distribution is None else distribution.get_tensor_layout(f"{self.path}/batch")
        if layout is None:
            return tensor
        # The gradient takes the same way back: split here, so that not every device goes through the embedder with all.
        tensor = keras.distribution.distribute_tensor(tensor, distribution.get_data_layout(tensor.shape))
        return keras.distribution.distribute_tensor(tensor, layout)
