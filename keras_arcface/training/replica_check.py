"""Comparison of a training step on all replicas with a step on one device."""

import concurrent.futures
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import _replicas

# Maximum rounding errors of a gradient or statistic, relative to its own norm and to the norm over all variables. Lost,
# repeated or damaged values differ by about their own norm.
_TOLERANCE, _GLOBAL_TOLERANCE = 0.1, 1e-3


class _StepResult(NamedTuple):
    """Result of a training step before the update of the weights.

    Gradients and changes of statistics are pairs of the path of a variable and one array per replica.
    """

    metrics: dict[str, float]
    gradients: list[tuple[str, Any]]
    statistics_changes: list[tuple[str, Any]]


def check_replicas(model: keras.Model, dataset: Iterable) -> float | None:
    """Checks that loss, metrics, gradients and statistics of a batch are equal on all replicas and on one device.

    Call it once at the start of a training on several GPUs. Every replica receives the same images and must compute the
    results of one device. The check detects faulty transfers between GPUs in seconds, which otherwise cause NaN or low
    accuracy later. It does not change the model. It requires memory for a second model, without an optimizer, on the
    first device.

    Args:
        model: a `RecognitionModel` created under a strategy. With one replica, and on backends other than TensorFlow,
            nothing is checked.
        dataset: iterable of batches `(images, labels)`, such as the dataset of `fit`. The first `batch // replicas`
            images of the first batch are used.

    Returns:
        The largest difference of a gradient or a statistic, relative to the norm over all variables; None with one
        replica.

    Raises:
        RuntimeError: if a value differs. The error names the value.
        ValueError: if the batch has fewer images than there are replicas.

    Examples:
        >>> with device_scope("auto"):
        ...     model = RecognitionModel(embedder, ArcFace(num_classes=2))
        ...     model.compile("sgd")
        >>> difference = check_replicas(model, dataset)
        >>> difference is None  # one replica
        True

    References:
        - [Reports of NaN on several GPUs](https://github.com/tensorflow/tensorflow/issues/90686)
    """
    if keras.backend.backend() != "tensorflow" or model.distribute_strategy.num_replicas_in_sync == 1:
        return None
    strategy = model.distribute_strategy
    images, labels = _local_batch(dataset, strategy.num_replicas_in_sync)
    with strategy.scope():
        model.build(images.shape)
    labels = keras.tree.map_structure(np.asarray, model.add_teacher_embeddings(images, labels))
    _check_equal_variables(model)
    received = _run_on_all_replicas(model, images, labels)
    # The current thread may be inside the scope of a strategy, which a new thread is not.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        expected = thread.submit(_run_on_one_device, model, images, labels).result()
    for name, value in received.metrics.items():
        if not np.isclose(value, expected.metrics[name], rtol=_TOLERANCE, atol=_GLOBAL_TOLERANCE):
            raise _error(strategy, f"Expected: {name}={expected.metrics[name]:.6g}. Received: {name}={value:.6g}")
    return max(
        _compare(strategy, "gradient", received.gradients, expected.gradients),
        _compare(strategy, "change", received.statistics_changes, expected.statistics_changes),
    )


def _local_batch(dataset: Iterable, replicas: int) -> tuple[np.ndarray, Any]:
    """Returns images and labels, or a pair of labels and teacher embeddings, of the size of a local batch."""
    images, labels = keras.tree.map_structure(np.asarray, next(iter(dataset)))
    size = len(images) // replicas
    if size == 0:
        raise ValueError(
            f"dataset must contain a first batch of at least one image for each of {replicas} replicas. "
            f"Received: a batch of {len(images)} images"
        )
    return keras.tree.map_structure(lambda part: part[:size], (images, labels))


def _check_equal_variables(model: keras.Model) -> None:
    strategy = model.distribute_strategy
    for variable in _variables_without_metrics(model):
        first, *others = (value.numpy() for value in strategy.experimental_local_results(variable.value))
        for replica, other in enumerate(others, 1):
            if not np.array_equal(first, other, equal_nan=first.dtype.kind == "f"):
                raise _error(
                    strategy,
                    f"Expected: equal values of {variable.path} on all replicas. "
                    f"Received: different values on replicas 0 and {replica}",
                )


def _run_on_all_replicas(model: keras.Model, images: np.ndarray, labels: Any) -> _StepResult:
    """Runs a step on all images on every replica, and restores the variables of the model."""
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    repeated = keras.tree.map_structure(lambda part: np.concatenate([part] * replicas), (images, labels))
    distributed = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(repeated))
    batch, step = next(iter(distributed)), _make_step(model)
    trained = {id(variable) for variable in model.trainable_variables}
    saved = [(v, v.numpy()) for v in _variables_without_metrics(model) if id(v) not in trained]
    try:
        return _run(model, tf.function(lambda batch: strategy.run(step, args=batch), autograph=False), batch)
    finally:
        for variable, value in saved:
            variable.assign(value)
        model.reset_metrics()


def _run_on_one_device(model: keras.Model, images: np.ndarray, labels: Any) -> _StepResult:
    """Runs a step of a copy of the model outside of the strategy."""
    copy = type(model).from_config(model.get_config())
    copy.build(images.shape)
    for variable, original in zip(_variables_without_metrics(copy), _variables_without_metrics(model), strict=True):
        variable.assign(original.numpy())
    step = tf.function(_make_step(copy), autograph=False)
    return _run(copy, lambda batch: step(*batch), keras.tree.map_structure(tf.constant, (images, labels)))


def _variables_without_metrics(model: keras.Model) -> list:
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def _make_step(model: keras.Model):
    def step(images, labels):
        with tf.GradientTape() as tape:
            embeddings = model(images, training=True)
            # With training=False, the head neither updates its state nor samples classes and margins.
            loss = model.compute_loss(images, labels, embeddings, training=False)
        weights = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        _replicas.average_statistics(model.embedder.non_trainable_variables, images)
        return loss, gradients

    return step


def _run(model: keras.Model, step, batch) -> _StepResult:
    statistics = [v for v in model.embedder.non_trainable_variables if v.value.dtype.is_floating]
    before = [variable.numpy() for variable in statistics]
    losses, gradients = step(batch)
    per_replica = model.distribute_strategy.experimental_local_results
    metrics = {"loss": sum(float(loss) for loss in per_replica(losses))}
    metrics |= {metric.name: float(metric.result()) for metric in model.metrics if metric.name != "loss"}
    # Gradients stay on their devices until the comparison, because those of many classes would fill the host memory.
    return _StepResult(
        metrics,
        [(v.path, per_replica(gradient)) for v, gradient in zip(model.trainable_variables, gradients, strict=True)],
        [
            (v.path, [value - start for value in per_replica(v.value)])
            for v, start in zip(statistics, before, strict=True)
        ],
    )


def _compare(strategy, kind: str, received: list, expected: list) -> float:
    """Returns the largest difference between a replica and one device, relative to the norm over all variables."""
    norms = [_norm(value) for _, (value,) in expected]
    global_norm = float(np.linalg.norm(norms))
    largest = 0.0
    for (path, values), (_, (reference,)), norm in zip(received, expected, norms, strict=True):
        allowed = _TOLERANCE * norm + _GLOBAL_TOLERANCE * global_norm
        for replica, value in enumerate(values):
            difference = _norm(np.asarray(value) - np.asarray(reference))
            if not difference <= allowed:  # also true for NaN
                raise _error(
                    strategy,
                    f"Expected: a {kind} of {path} within {allowed:.3g} of the one-device value (L2 norm {norm:.3g}). "
                    f"Received: a difference of {difference:.3g} on replica {replica}",
                )
            largest = max(largest, difference / global_norm if global_norm else 0.0)
    return largest


def _norm(array) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float32).ravel()))


def _error(strategy, difference: str) -> RuntimeError:
    return RuntimeError(
        f"{strategy.num_replicas_in_sync} replicas must compute the results of one device. {difference}. Train on one "
        "device, or find the faulty transfer: try NCCL_P2P_DISABLE=1, another driver or another TensorFlow release"
    )
