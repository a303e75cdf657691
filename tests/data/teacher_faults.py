"""Stores of `fault_injection.py`: the stored embeddings of a teacher."""

from pathlib import Path
from unittest import mock

import numpy as np
from dataset_faults import TwoFaces
from fault_injection import Store

from keras_arcface import data
from keras_arcface.data import reader


class Batch:
    """Tensor of a batch. Threads of TensorFlow do not survive the fork of a process to kill."""

    def __init__(self, values):
        self.values = np.array(values)

    def numpy(self):
        return self.values


def load_batches(*_, **__):
    for index in range(2):
        yield Batch(np.full((1, 16, 16, 3), 100 * index + 50, np.uint8)), Batch([index]), Batch([b"name"])


class StoredEmbeddings(Store):
    """Array and facts of the embeddings of two images."""

    name = "teacher embeddings"

    def prepare(self, directory):
        data.write_dataset(TwoFaces(), directory / "records", check=False)

    def run(self, directory):
        with mock.patch.object(reader, "load_dataset", load_batches):
            data.write_teacher_embeddings(
                directory / "records", lambda images: images.mean(axis=(1, 2)), "mean colors", directory, batch_size=1
            )

    def state(self, directory: Path) -> str:
        try:
            values = data.load_teacher_embeddings(directory / "records", "mean colors", directory).values
        except FileNotFoundError:
            return "old"
        except ValueError as error:
            return str(error)
        return "new" if values.shape == (2, 2, 3) else repr(values)


STORES = [StoredEmbeddings()]
