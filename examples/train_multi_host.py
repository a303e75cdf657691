"""Trains a face embedder with ArcFace on several hosts, and on all their devices: Keras on JAX.

One command per host, the same but for --host; host 0 is the one that the others find by its address:

    python examples/train_multi_host.py --data ms1m_tfrecord --coordinator 10.0.0.1:1234 --hosts 2 --host 0
    python examples/train_multi_host.py --data ms1m_tfrecord --coordinator 10.0.0.1:1234 --hosts 2 --host 1

Every host reads the same files (see make_tfrecords.py) and decodes its share of each batch. With `--class-shards 8`
every device holds an eighth of the class centers, for when there are too many for one. In --output, a folder that all
hosts share, host 0 leaves embedder.keras, steps.csv and checkpoints; the same commands again go on from the last one.

Without hosts and GPUs at hand it can be tried on one machine: give both commands --coordinator localhost:1234 and
--cpu-devices 2.
"""

import argparse
import math
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported

import jax
import keras
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface import data
from keras_arcface import training
from keras_arcface.models import make_embedder

# What must be the same when a run goes on.
CHOICES = ("backbone", "width", "dim", "dropout", "batch_size", "steps", "learning_rate", "weight_decay", "seed")


def main():
    arguments = parse_arguments()
    connect(arguments)
    me, is_first = f"host {arguments.host} of {arguments.hosts}", arguments.host == 0
    devices = len(keras.distribution.list_devices())
    print(f"{me}: {jax.local_device_count()} of {devices} devices", flush=True)
    if arguments.batch_size % devices:
        raise SystemExit(f"error: --batch-size must be divisible by the {devices} devices of all hosts")
    keras.distribution.set_distribution(training.ClassParallel(arguments.class_shards))

    info = data.load_info(arguments.data)
    backbone = getattr(backbones, arguments.backbone)(width=arguments.width, input_shape=(*info.image_size, 3))
    head = ArcFace(training.divisible_classes(info.num_classes, arguments.class_shards))
    model = RecognitionModel(make_embedder(backbone, dim=arguments.dim, dropout=arguments.dropout), head)
    schedule = training.PolynomialSchedule(arguments.learning_rate, arguments.steps)
    model.compile(training.CoupledSGD(schedule, weight_decay=arguments.weight_decay))
    model.build((None, *info.image_size, 3))

    choices = {name: value for name, value in vars(arguments).items() if name in CHOICES}
    choices |= {"num_classes": info.num_classes, "num_examples": info.num_examples, "hosts": arguments.hosts}
    every = min(arguments.every, arguments.steps)
    checkpoints = training.Checkpoints(arguments.output / "checkpoints", every, about=choices)
    start = checkpoints.restore(model)
    if start:
        print(f"{me}: going on behind step {start}", flush=True)
    images = data.load_dataset(
        arguments.data,
        batch_size=arguments.batch_size // arguments.hosts,
        training=True,
        seed=arguments.seed,
        start_step=start,
        host=arguments.host,
        num_hosts=arguments.hosts,
    )

    callbacks = [checkpoints, training.StopAtStep(arguments.steps, start)]
    if is_first:
        callbacks += [
            training.TrainingLog(arguments.output, arguments.batch_size, min(50, every), start_step=start),
            training.ProgressBar(arguments.steps, arguments.batch_size, start),
        ]
    # What Keras calls an epoch is here the time between two checkpoints.
    model.fit(
        images,
        steps_per_epoch=every,
        initial_epoch=start // every,
        epochs=start // every + math.ceil((arguments.steps - start) / every),
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    if is_first:
        model.embedder.save(arguments.output / "embedder.keras")  # every device has all of it, unlike the centers
    print(f"{me}: done", flush=True)


def connect(arguments):
    """Makes the hosts one system, with the same random numbers on each."""
    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads the data; the GPUs' memory is for JAX
    if arguments.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    keras.utils.set_random_seed(arguments.seed)
    if arguments.hosts > 1:
        keras.distribution.initialize(arguments.coordinator, arguments.hosts, arguments.host)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of TFRecords, the same on every host")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/multi_host"), help="folder to write to, shared by all hosts"
    )
    hosts = parser.add_argument_group("hosts")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="address of host 0, with a free port")
    hosts.add_argument("--hosts", type=int, default=1, help="how many there are")
    hosts.add_argument("--host", type=int, default=0, help="which one this is, from 0")
    hosts.add_argument("--class-shards", type=int, default=1, help="into how many shards the class centers are split")
    hosts.add_argument("--cpu-devices", type=int, help="train on so many CPU devices per host, to try things out")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--backbone", default="IResNet50", choices=[n for n in backbones.__all__ if n != "IResNet"])
    recipe.add_argument("--width", type=int, default=64, help="of the backbone")
    recipe.add_argument("--dim", type=int, default=512, help="length of an embedding")
    recipe.add_argument("--dropout", type=float, default=0.4)
    recipe.add_argument("--batch-size", type=int, default=1024, help="images per step, on all hosts together")
    recipe.add_argument("--steps", type=int, default=100_000)
    recipe.add_argument("--learning-rate", type=float, default=0.2)
    recipe.add_argument("--weight-decay", type=float, default=5e-4)
    recipe.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=2000, help="steps between checkpoints")
    arguments = parser.parse_args()
    if not 0 <= arguments.host < arguments.hosts:
        parser.error(f"--host must be in [0, --hosts={arguments.hosts}). Received: {arguments.host}")
    if arguments.hosts > 1 and arguments.coordinator is None:
        parser.error("several hosts need --coordinator, the address of host 0")
    if arguments.batch_size % arguments.hosts:
        parser.error("--batch-size must be divisible by --hosts")
    return arguments


if __name__ == "__main__":
    main()
