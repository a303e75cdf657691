"""Stores of `fault_injection.py`: a dataset directory."""

import functools
from pathlib import Path

import cv2
import numpy as np
from fault_injection import Store

from keras_arcface import data


class TwoFaces(data.Source):
    """Two images of noise in memory."""

    num_classes = 2
    labels = np.array([0, 1])

    def __str__(self):
        return "two faces"

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return data.Record(_noise(index), index, f"image {index}")

    def fingerprint(self):
        return "two faces"


@functools.cache
def _noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


class NewDataset(Store):
    """Dataset of two shards that is written to a new directory."""

    name = "dataset"

    def run(self, directory):
        # Checking images would start threads of TensorFlow, which do not survive the fork of a process to kill.
        data.write_dataset(TwoFaces(), directory / "out", examples_per_shard=1, check=False)

    def state(self, directory: Path) -> str:
        try:
            info = data.load_info(directory / "out")
        except FileNotFoundError:
            return "old"
        except ValueError as error:
            return str(error)
        data.check_dataset(directory / "out")
        return "new" if info.num_examples == 2 else repr(info)


class ResumedDataset(NewDataset):
    """Dataset whose first shard is finished."""

    name = "resumed dataset"

    def prepare(self, directory):
        class Interrupted(TwoFaces):
            def __getitem__(self, index):
                if (directory / "out" / "00000-of-00002.tfrecord").exists():
                    raise KeyboardInterrupt
                return super().__getitem__(index)

        try:
            data.write_dataset(Interrupted(), directory / "out", examples_per_shard=1, check=False)
        except KeyboardInterrupt:
            return
        raise AssertionError("the conversion must be interrupted")


STORES = [NewDataset(), ResumedDataset()]
