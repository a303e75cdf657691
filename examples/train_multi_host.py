"""Trains a face embedder with ArcFace on all devices of several hosts, with Keras on JAX.

Run one command per host. The commands differ only in --host; --coordinator is the address of host 0:

    python examples/train_multi_host.py --data ms1m_tfrecord --coordinator 10.0.0.1:1234 --hosts 2 --host 0
    python examples/train_multi_host.py --data ms1m_tfrecord --coordinator 10.0.0.1:1234 --hosts 2 --host 1

Every host reads the same files (see make_tfrecords.py) and decodes its share of each batch. With `--class-shards 8`,
every device holds an eighth of the class centers, in case they do not fit on one device. --output must be a folder that
all hosts share. Host 0 writes embedder.keras, steps.csv and checkpoints to it. The same commands resume an interrupted
run from its last checkpoint. It may then have another number of hosts, devices or class shards.

To try it on one machine without GPUs, add --coordinator localhost:1234 and --cpu-devices 2 to both commands.
"""

import argparse
import math
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads this when it is imported

import jax
import keras
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface import data
from keras_arcface import training
from keras_arcface.models import make_embedder

# Options that must not change when a run is resumed.
RUN_OPTIONS = ("backbone", "width", "dim", "dropout", "batch_size", "steps", "learning_rate", "weight_decay", "seed")
# Numbers of class shards that divide it can replace each other when a run is resumed.
CLASS_MULTIPLE = 64


def main():
    arguments = parse_arguments()
    connect(arguments)
    host_name, is_first = f"host {arguments.host} of {arguments.hosts}", arguments.host == 0
    devices = len(keras.distribution.list_devices())
    print(f"{host_name}: {jax.local_device_count()} of {devices} devices", flush=True)
    if arguments.batch_size % devices:
        raise SystemExit(
            f"error: --batch-size must be divisible by the {devices} devices of all hosts. "
            f"Received: {arguments.batch_size}"
        )
    keras.distribution.set_distribution(training.ClassParallel(arguments.class_shards))

    info = data.load_info(arguments.data)
    backbone = getattr(backbones, arguments.backbone)(width=arguments.width, input_shape=(*info.image_size, 3))
    # The number of classes must not change when a run is resumed with other shards.
    num_classes = training.round_up_classes(info.num_classes, math.lcm(CLASS_MULTIPLE, arguments.class_shards))
    head = ArcFace(num_classes)
    model = RecognitionModel(make_embedder(backbone, dim=arguments.dim, dropout=arguments.dropout), head)
    schedule = training.PolynomialSchedule(arguments.learning_rate, arguments.steps)
    model.compile(training.CoupledSGD(schedule, weight_decay=arguments.weight_decay))
    model.build((None, *info.image_size, 3))

    run_options = {name: value for name, value in vars(arguments).items() if name in RUN_OPTIONS}
    run_options |= {"num_classes": num_classes, "num_examples": info.num_examples}
    every = min(arguments.every, arguments.steps)
    checkpoints = training.Checkpoints(arguments.output / "checkpoints", every, run_config=run_options)
    start = checkpoints.restore(model)
    if start:
        print(f"{host_name}: resuming after step {start}", flush=True)
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
    # An epoch of fit is the interval between two checkpoints.
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
        model.embedder.save(arguments.output / "embedder.keras")  # replicated on every device, unlike the centers
    print(f"{host_name}: done", flush=True)


def connect(arguments):
    """Connects the hosts and seeds them with the same random numbers."""
    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads data; JAX uses the GPU memory
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
        "--output", type=Path, default=Path("runs/multi_host"), help="output folder, shared by all hosts"
    )
    hosts = parser.add_argument_group("hosts")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="address of host 0, with a free port")
    hosts.add_argument("--hosts", type=int, default=1, help="number of hosts")
    hosts.add_argument("--host", type=int, default=0, help="index of this host, from 0")
    hosts.add_argument("--class-shards", type=int, default=1, help="number of shards of the class centers")
    hosts.add_argument("--cpu-devices", type=int, help="train on this number of CPU devices per host, for trials")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--backbone", default="IResNet50", choices=[n for n in backbones.__all__ if n != "IResNet"])
    recipe.add_argument("--width", type=int, default=64, help="width of the backbone")
    recipe.add_argument("--dim", type=int, default=512, help="embedding size")
    recipe.add_argument("--dropout", type=float, default=0.4)
    recipe.add_argument("--batch-size", type=int, default=1024, help="images per step, over all hosts")
    recipe.add_argument("--steps", type=int, default=100_000)
    recipe.add_argument("--learning-rate", type=float, default=0.2)
    recipe.add_argument("--weight-decay", type=float, default=5e-4)
    recipe.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=2000, help="steps between checkpoints")
    arguments = parser.parse_args()
    if not 0 <= arguments.host < arguments.hosts:
        parser.error(f"--host must be in [0, --hosts={arguments.hosts}). Received: {arguments.host}")
    if arguments.hosts > 1 and arguments.coordinator is None:
        parser.error("--hosts above 1 requires --coordinator, the address of host 0")
    if arguments.batch_size % arguments.hosts:
        parser.error(f"--batch-size must be divisible by --hosts={arguments.hosts}. Received: {arguments.batch_size}")
    return arguments


if __name__ == "__main__":
    main()
