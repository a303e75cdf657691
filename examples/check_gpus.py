"""Trains 200 steps with MirroredStrategy on all GPUs, and the same steps on one, and compares metrics and weights.

    python examples/check_gpus.py
    python examples/check_gpus.py --cpus 2          # on two logical CPUs, without a GPU

Use it before a long training on several GPUs, or to find out why one becomes NaN. The exit code is 1 if a metric is not
finite, or if a metric, a weight or a statistic of BatchNorm differs from that of one GPU more than rounding explains.
The message names it.

To measure what rounding explains, one GPU also trains from weights that differ by a rounding error. The difference of
several GPUs may be at most 20 times as large. All steps belong to one epoch, because an epoch resets the metrics.

Known causes:

- Before Keras 3.10, MirroredStrategy multiplied the metrics by the number of replicas in each step, so that they became
  NaN after 64 steps on 4 replicas (https://github.com/keras-team/keras/pull/21072). Reports of NaN:
  https://github.com/tensorflow/tensorflow/issues/90686, https://github.com/keras-team/keras/issues/21467.
- Faulty transfers between two GPUs. NCCL_P2P_DISABLE=1 avoids direct ones.
"""

import argparse
import math
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder
from keras_arcface.training import GradientAccumulationOptimizer

BATCH, CLASSES, SHAPE = 16, 6, (16, 16, 3)
ROUNDING = 2.0**-24  # relative perturbation of the weights
ALLOWED = 20  # times the difference that the perturbation causes
SMALLEST = 1e-6  # relative difference that is always allowed
SHOWN = 5  # messages about differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cpus", type=int, help="number of logical CPUs to use instead of GPUs")
    arguments = parser.parse_args()
    if arguments.steps < 1 or (arguments.cpus is not None and arguments.cpus < 2):
        parser.error("--steps must be at least 1, and --cpus at least 2")
    tf.config.experimental.enable_tensor_float_32_execution(False)  # its rounding is not that of float32
    devices = find_devices(arguments.cpus)
    if len(devices) < 2:
        raise SystemExit(f"error: two or more GPUs are required, or --cpus 2. Received: {len(devices)} GPUs")
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {arguments.steps} steps on {', '.join(devices)}")
    one_device = tf.distribute.OneDeviceStrategy(devices[0])
    one = Training(one_device, arguments.steps)
    perturbed = Training(one_device, arguments.steps, ROUNDING)
    several = Training(tf.distribute.MirroredStrategy(devices), arguments.steps)
    problems = several.non_finite_metrics() + compare(one, several, perturbed)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{len(devices)} devices train like one.")


def find_devices(cpus: int | None) -> list[str]:
    """Returns the names of all GPUs, or of logical CPUs."""
    if cpus is None:
        return [f"GPU:{number}" for number in range(len(tf.config.list_physical_devices("GPU")))]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpus)
    return [f"CPU:{number}" for number in range(cpus)]


class Training:
    """A training under a strategy.

    Attributes:
        logs: metrics of each step, and those of the epoch.
        start: values before the training, by the path of the variable.
        end: values after the training.
    """

    def __init__(self, strategy, steps: int, perturbation: float = 0.0):
        keras.utils.clear_session()  # so that the variables of all trainings have the same paths
        with strategy.scope():
            keras.utils.set_random_seed(1)
            backbone = IResNet((1,), width=16, input_shape=SHAPE, synchronized=True)
            head = ArcFace(CLASSES, centers_regularizer=keras.regularizers.L2(1e-3))
            model = RecognitionModel(make_embedder(backbone, dim=8, dropout=0.0, synchronized=True), head)
            model.compile(GradientAccumulationOptimizer(keras.optimizers.SGD(1e-4, momentum=0.9)))
            model.build((None, *SHAPE))
        generator = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(weight.numpy() * (1 + perturbation * generator.choice([-1, 1], weight.shape)))
        self.logs: list[dict[str, float]] = []
        self.start = values_of(model)
        keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: self.logs.append(to_floats(logs)))
        history = model.fit(make_dataset(steps), shuffle=False, verbose=0, callbacks=[keep]).history
        self.logs.append({name: values[0] for name, values in history.items()})
        self.end = values_of(model)

    def non_finite_metrics(self) -> list[str]:
        """Returns a message for each metric that is NaN or infinite, with the first such step."""
        found: dict[str, str] = {}
        for step, logs in enumerate(self.logs, 1):
            for name, value in logs.items():
                if not math.isfinite(value):
                    found.setdefault(name, f"the metric {name!r} is {value} after step {step} on several devices")
        return list(found.values())


def make_dataset(steps: int) -> tf.data.Dataset:
    """Makes batches of noisy prototypes. The last batch is short, so that the devices receive unequal parts."""
    generator = np.random.default_rng(0)
    count = steps * BATCH - 3
    labels = generator.integers(0, CLASSES, count).astype(np.int32)
    prototypes = generator.integers(0, 256, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + generator.normal(0, 40, (count, *SHAPE)), 0, 255).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)


def values_of(model: keras.Model) -> dict[str, np.ndarray]:
    statistics = [variable for variable in model.non_trainable_weights if "moving" in variable.path]
    return {variable.path: variable.numpy() for variable in (*model.trainable_weights, *statistics)}


def to_floats(logs: dict) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


def metric_differences(first: Training, second: Training) -> dict[str, float]:
    """Returns the largest relative difference of each metric over all steps and the epoch."""
    return {
        name: max(
            abs(a[name] - b[name]) / max(abs(a[name]), 1e-3) for a, b in zip(first.logs, second.logs, strict=True)
        )
        for name in first.logs[0]
    }


def value_differences(first: Training, second: Training) -> dict[str, float]:
    """Returns the largest difference of each variable, relative to the change of all variables by the training."""
    change = max(np.abs(first.end[path] - first.start[path]).max() for path in first.end)
    return {path: float(np.abs(first.end[path] - second.end[path]).max() / change) for path in first.end}


def compare(one: Training, several: Training, perturbed: Training) -> list[str]:
    """Prints the largest differences, and returns messages for the worst ones that rounding does not explain."""
    problems = []
    print(f"{'largest relative difference from one device':44}{'several':>10}{'rounding':>10}{'ratio':>9}")
    for differences, kind in ((metric_differences, "metric"), (value_differences, "variable")):
        received, explained = differences(one, several), differences(one, perturbed)
        # Variables share a limit, because the perturbation of one with few values may be small by chance.
        largest = max(explained.values())
        for name, difference in received.items():
            limit = max(explained[name] if kind == "metric" else largest, SMALLEST)
            print(f"{kind} {name}"[:43].ljust(44) + f"{difference:10.1e}{limit:10.1e}{difference / limit:9.2f}")
            if not difference <= ALLOWED * limit:  # also true for NaN
                message = (
                    f"the {kind} {name!r} of several devices differs by {difference:.2g} from that of one. "
                    f"Expected: at most {ALLOWED * limit:.2g}, {ALLOWED} times what rounding causes"
                )
                problems.append((difference / limit, message))
    problems.sort(reverse=True)
    more = [f"{len(problems) - SHOWN} more differences, see the table"] if len(problems) > SHOWN else []
    return [message for _, message in problems[:SHOWN]] + more


if __name__ == "__main__":
    main()
