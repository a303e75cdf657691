"""Compares the images per second of `load_dataset` with a bare loop of libjpeg-turbo on the same data and cores.

    pip install simplejpeg torch
    python benchmarks/input_pipeline.py path/to/train.rec

The limit is the faster of simplejpeg and OpenCV (both use libjpeg-turbo), decoding images in memory with one process
per core. The others read TFRecords from the page cache, shuffle, decode, and create batches of 128 uint8 images. Each
measurement runs in a separate process. They take turns for several rounds, and the table shows the median. Peers: the
pipeline of most tutorials, which decodes images one by one, and a PyTorch DataLoader with simplejpeg and one worker
process per core.
"""

import argparse
import concurrent.futures
import functools
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH = 128
CORES = os.cpu_count()


def images_of(rec: str) -> list[bytes]:
    from keras_arcface import data

    return [image for image, _, _ in data.RecordIO(rec)]


def loop_forever(decode, images: list[bytes], seconds: float) -> int:
    end = time.perf_counter() + seconds
    for done, image in enumerate(itertools.cycle(images)):
        if done % 64 == 0 and time.perf_counter() > end:
            return done
        decode(image)


def simplejpeg_decode(image):
    import simplejpeg

    return simplejpeg.decode_jpeg(image, fastdct=False)


def opencv_decode(image):
    import cv2
    import numpy as np

    return cv2.cvtColor(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def bare_loop(decode, rec, directory, seconds):
    import cv2

    cv2.setNumThreads(1)
    images = images_of(rec)
    decode(images[0])
    with concurrent.futures.ProcessPoolExecutor(CORES) as pool:
        list(pool.map(time.sleep, [0.1] * CORES))  # starts all processes
        jobs = [pool.submit(loop_forever, decode, images[core::CORES], seconds) for core in range(CORES)]
        begin = time.perf_counter()
        done = sum(job.result() for job in jobs)
        return done / (time.perf_counter() - begin)


def ours(rec, directory, seconds, **kwargs):
    from keras_arcface import data

    if isinstance(kwargs.get("augmentation"), str):
        kwargs["augmentation"] = getattr(data.augment, kwargs["augmentation"])
    return rate(data.load_dataset(directory, BATCH, training=True, **kwargs), seconds)


def tutorial(rec, directory, seconds, parallel, flip):
    import tensorflow as tf

    from keras_arcface import data

    files = [str(Path(directory) / shard.file) for shard in data.load_info(directory).shards]

    def parse(serialized):
        example = tf.io.parse_single_example(
            serialized,
            {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)},
        )
        image = tf.image.decode_jpeg(example["image"], channels=3)
        image = tf.ensure_shape(image, (112, 112, 3))
        return tf.image.random_flip_left_right(image) if flip else image, example["label"]

    workers = tf.data.AUTOTUNE if parallel else None
    dataset = tf.data.TFRecordDataset(files).map(parse, num_parallel_calls=workers)
    return rate(dataset.shuffle(10_000).repeat().batch(BATCH).prefetch(tf.data.AUTOTUNE), seconds)


def reading_only(rec, directory, seconds):
    """Measures our shuffled stream of records through tf.data, without parsing and decoding."""
    import tensorflow as tf

    from keras_arcface import data
    from keras_arcface.data import reader
    from keras_arcface.data.shards import ShardReader

    shards = ShardReader(directory, data.load_info(directory), skip_damaged=False)
    inputs = reader._record_batches(shards, reader._HostBatches(BATCH, 0, 1), True, 0, 0, 10_000)
    signature = (tf.TensorSpec((BATCH,), tf.int64), tf.TensorSpec((BATCH,), tf.string))
    return rate(tf.data.Dataset.from_generator(inputs.batches, output_signature=signature), seconds)


def decoding_only(rec, directory, seconds):
    """Measures our decoding of batches in memory, with one call per batch and parallel calls."""
    import tensorflow as tf

    from keras_arcface.data import encoded_images

    encoded = tf.constant(images_of(rec)[: 32 * BATCH])
    dataset = tf.data.Dataset.from_tensor_slices(tf.reshape(encoded, (-1, BATCH))).repeat()
    dataset = dataset.map(
        lambda e: (encoded_images.decode_batch(e, e, (112, 112)), e), num_parallel_calls=tf.data.AUTOTUNE
    )
    return rate(dataset, seconds)


def data_loader(rec, directory, seconds, flip):
    import random

    import numpy as np
    import torch

    class Faces(torch.utils.data.Dataset):
        def __init__(self):
            self.images = images_of(rec)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            image = simplejpeg_decode(self.images[index])
            if flip and random.random() < 0.5:
                image = np.ascontiguousarray(image[:, ::-1])
            return torch.from_numpy(image), index

    loader = torch.utils.data.DataLoader(
        Faces(), BATCH, shuffle=True, num_workers=CORES, drop_last=True, persistent_workers=True
    )
    return rate(itertools.chain.from_iterable(itertools.repeat(loader)), seconds)


def rate(batches, seconds):
    """Returns images per second, without the first batches, during which the pipeline starts."""
    iterator = iter(batches)
    for _ in range(60):
        next(iterator)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + seconds:
        done += len(next(iterator)[1])
    return done / (time.perf_counter() - begin)


MEASUREMENTS = {
    "bare loop, simplejpeg": functools.partial(bare_loop, simplejpeg_decode),
    "bare loop, OpenCV": functools.partial(bare_loop, opencv_decode),
    "load_dataset, plain": functools.partial(ours, augmentation=None),
    "load_dataset, flip (the default)": ours,
    "load_dataset, AdaFace's recipe": functools.partial(ours, augmentation="adaface"),
    'load_dataset, flip, cache="decoded"': functools.partial(ours, cache="decoded"),
    "load_dataset, flip, P x K": functools.partial(ours, images_per_class=4),
    "  of it: decoding only": decoding_only,
    "  of it: reading and shuffling only": reading_only,
    "tutorial, plain": functools.partial(tutorial, parallel=False, flip=False),
    "tutorial, flip": functools.partial(tutorial, parallel=False, flip=True),
    "tutorial, flip, parallel maps": functools.partial(tutorial, parallel=True, flip=True),
    "PyTorch DataLoader, plain": functools.partial(data_loader, flip=False),
    "PyTorch DataLoader, flip": functools.partial(data_loader, flip=True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rec", help=".rec file with JPEG images of 112 x 112")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each measurement in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        images_per_second = MEASUREMENTS[arguments.measure](arguments.rec, arguments.directory, arguments.seconds)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({"rate": images_per_second, "memory": memory}))
        return
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [sys.executable, "examples/make_tfrecords.py", arguments.rec, f"{directory}/tfrecords"],
            check=True,
            capture_output=True,
        )
        compare(arguments, f"{directory}/tfrecords")


def compare(arguments, directory):
    rates, problems = {name: [] for name in MEASUREMENTS}, {}
    for _ in range(arguments.rounds):
        for name in MEASUREMENTS:
            if name in problems:
                continue
            command = [sys.executable, __file__, arguments.rec, "--measure", name, "--directory", directory]
            done = subprocess.run(
                [*command, "--seconds", str(arguments.seconds)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                problems[name] = done.stderr.strip().splitlines()[-1][:60]
            else:
                rates[name].append(json.loads(done.stdout.splitlines()[-1])["rate"])
    medians = {name: statistics.median(measured) for name, measured in rates.items() if measured}
    limit = max(median for name, median in medians.items() if name.startswith("bare"))
    print(f"{CORES} cores, batches of {BATCH}, median of {arguments.rounds} rounds of {arguments.seconds:g} s\n")
    print(f"{'':40}{'images/s':>10}{'x limit':>14}{'min':>10}{'max':>10}")
    for name, measured in rates.items():
        if not measured:
            print(f"{name:40}{'-':>10}  {problems[name]}")
            continue
        print(
            f"{name:40}{medians[name]:>10,.0f}{medians[name] / limit:>14.2f}"
            f"{min(measured):>10,.0f}{max(measured):>10,.0f}"
        )


if __name__ == "__main__":
    main()
