"""Checks, before a training starts, that several devices compute what one of them computes."""

import concurrent.futures
import logging
import random

import keras
import numpy as np
import tensorflow as tf

_log = logging.getLogger(__name__)

# What rounding may do to the update of a variable, relative to that update and to the update of all of its kind. What
# was lost, counted twice or damaged on the way between devices changes an update by about its own size.
_TOLERANCE, _TOLERANCE_OF_ALL = 0.1, 1e-3

_MOST_STEPS = 64


def check_replicas(model, dataset) -> float | None:
    """Compares one training step on all replicas with the same step on one device. The model stays as it was.

    Every replica gets the same images, so that each must compute what one device does: loss, metrics, gradients and
    BatchNorm statistics. Wrong transfers between GPUs show here, in the first seconds, instead of as NaN or as a poor
    network later. The step needs room for a second model and its optimizer on the first device.

    >>> with strategy.scope():
    ...     model = RecognitionModel(embedder, head)
    ...     model.compile("sgd")
    >>> check_replicas(model, images)  # images = load_dataset(..., training=True)
    >>> # model.fit(images, ...)

    Args:
        model: a compiled `RecognitionModel`, built under a strategy. With one replica, or on another backend than
            TensorFlow, nothing happens.
        dataset: gives batches `(images, labels)`, as `fit` takes them. Of the first batch, `batch // replicas` images
            are used.

    Returns:
        The largest difference of a variable's update, relative to the update of all weights, or of all statistics.
        None if nothing was compared: there is one replica, or the head draws other margins on each (`ElasticFace`).

    Raises:
        RuntimeError: naming what differs.
        ValueError: if there are fewer images than replicas.

    References:
        - [Reports of NaN on several GPUs](https://github.com/tensorflow/tensorflow/issues/90686)
    """
    if keras.backend.backend() != "tensorflow" or model.distribute_strategy.num_replicas_in_sync == 1:
        return None
    if getattr(getattr(model.head, "margin", None), "random", False):
        _log.info("Replicas were not compared: %s draws other margins on each", type(model.head).__name__)
        return None
    replicas = model.distribute_strategy.num_replicas_in_sync
    images, labels = (np.asarray(part) for part in next(iter(dataset)))
    share = len(images) // replicas
    if share == 0:
        raise ValueError(f"check_replicas expects an image for each of {replicas} replicas. Received: {len(images)}")
    images, labels = images[:share], labels[:share]
    with model.distribute_strategy.scope():
        model.build(images.shape)
        model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    before = [variable.numpy() for variable in variables]
    start = [variable.numpy() for variable in model.trainable_variables]
    random_state = random.getstate()
    try:
        whole = np.concatenate([images] * replicas), np.concatenate([labels] * replicas)
        steps = 0
        # The first steps change nothing where the learning rate begins at 0 or gradients are accumulated.
        while steps == 0 or (steps < _MOST_STEPS and not _has_moved(model.trainable_variables, start)):
            logs, steps = _one_step(model, *whole), steps + 1
        _check_equal_replicas(model, variables)
        after = [variable.numpy() for variable in variables]
        # A strategy's scope, which this may run in, belongs to the thread.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            expected_logs, expected = thread.submit(_train_on_one_device, model, before, images, labels, steps).result()
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        model.reset_metrics()
        random.setstate(random_state)
    for name, value in logs.items():
        if not np.isclose(value, expected_logs[name], rtol=_TOLERANCE, atol=_TOLERANCE_OF_ALL):
            raise RuntimeError(_complaint(replicas, f"{name} is {value:.6g}. Expected: {expected_logs[name]:.6g}"))
    # Counters, and what a head learns of whole batches, see equal images once for each replica.
    kinds = (
        model.trainable_variables,
        [v for v in model.embedder.non_trainable_variables if v.value.dtype.is_floating],
    )
    changes = {
        id(variable): (received - first, wanted - first)
        for variable, first, received, wanted in zip(variables, before, after, expected, strict=True)
    }
    return max(_check_updates({v.path: changes[id(v)] for v in kind}, replicas) for kind in kinds)


def _variables(model):
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [v for v in (*model.variables, *model.optimizer.variables) if id(v) not in metrics]


def _has_moved(variables, start):
    return any(not np.array_equal(v.numpy(), value) for v, value in zip(variables, start, strict=True))


def _one_step(model, images, labels):
    dataset = tf.data.Dataset.from_tensors((images, labels))
    return {name: values[0] for name, values in model.fit(dataset, shuffle=False, verbose=0).history.items()}


def _train_on_one_device(model, before, images, labels, steps):
    twin = type(model).from_config(model.get_config())
    twin.compile(keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer)), jit_compile=False)
    twin.build(images.shape)
    twin.optimizer.build(twin.trainable_variables)
    variables = _variables(twin)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    for _ in range(steps):
        logs = _one_step(twin, images, labels)
    return logs, [variable.numpy() for variable in variables]


def _check_equal_replicas(model, variables):
    strategy = model.distribute_strategy
    for variable in variables:
        first, *others = (value.numpy() for value in strategy.experimental_local_results(variable.value))
        for number, other in enumerate(others, 1):
            if not np.array_equal(first, other):
                replicas = strategy.num_replicas_in_sync
                raise RuntimeError(
                    _complaint(replicas, f"{variable.path} of replica {number} is not that of replica 0")
                )


def _check_updates(updates, replicas):
    def norm(array):
        return float(np.linalg.norm(array.astype(np.float32).ravel()))

    expected_norms = {path: norm(expected) for path, (_, expected) in updates.items()}
    of_all = float(np.linalg.norm(list(expected_norms.values())))
    largest = 0.0
    for path, (received, expected) in updates.items():
        difference = norm(received - expected)
        allowed = _TOLERANCE * expected_norms[path] + _TOLERANCE_OF_ALL * of_all
        if not difference <= allowed:  # nor NaN
            update = f"the update of {path} differs by {difference:.3g} (L2). Expected: at most {allowed:.3g}"
            raise RuntimeError(_complaint(replicas, f"{update}, as the update is {expected_norms[path]:.3g}"))
        largest = max(largest, difference / of_all if of_all else 0.0)
    return largest


def _complaint(replicas, difference):
    return (
        f"A training step on {replicas} replicas is not that of one device: {difference}. Train on one device, or look "
        "for the cause between the devices: NCCL_P2P_DISABLE=1, another driver or TensorFlow release"
    )
