"""Checks, before a training starts, that several devices compute what one of them computes."""

import concurrent.futures

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import _replicas

# What rounding may do to a gradient or a statistic, relative to itself and to all of its kind. What was lost, counted
# twice or damaged on the way between devices changes it by about its own size.
_TOLERANCE, _TOLERANCE_OF_ALL = 0.1, 1e-3


def check_replicas(model, dataset) -> float | None:
    """Compares loss, metrics, gradients and statistics of a batch on all replicas with those on one device.

    Every replica gets the same images, so that each must compute what one device does. Wrong transfers between GPUs
    show here, in the first seconds, instead of as NaN or as a poor network later. No weight is trained, and the model
    stays as it was. The check needs room for a second model, without an optimizer, on the first device.

    >>> with strategy.scope():
    ...     model = RecognitionModel(embedder, head)
    ...     model.compile("sgd")
    >>> check_replicas(model, images)  # images = load_dataset(..., training=True)
    >>> # model.fit(images, ...)

    Args:
        model: a `RecognitionModel`, created under a strategy. With one replica, or on another backend than TensorFlow,
            nothing happens.
        dataset: gives batches `(images, labels)`, as `fit` takes them. Of the first batch, `batch // replicas` images
            are used.

    Returns:
        The largest difference of a gradient or a statistic, relative to all of its kind; None if there is one replica.

    Raises:
        RuntimeError: naming what differs.
        ValueError: if there are fewer images than replicas.

    References:
        - [Reports of NaN on several GPUs](https://github.com/tensorflow/tensorflow/issues/90686)
    """
    if keras.backend.backend() != "tensorflow" or model.distribute_strategy.num_replicas_in_sync == 1:
        return None
    strategy = model.distribute_strategy
    images, labels = (np.asarray(part) for part in next(iter(dataset)))
    share = len(images) // strategy.num_replicas_in_sync
    if share == 0:
        raise ValueError(
            f"check_replicas expects an image for each of {strategy.num_replicas_in_sync} replicas. "
            f"Received: a batch of {len(images)}"
        )
    images, labels = images[:share], labels[:share]
    with strategy.scope():
        model.build(images.shape)
    _check_equal_replicas(model)
    changing = [(v, v.numpy()) for v in _variables(model) if not any(v is w for w in model.trainable_variables)]
    try:
        found = _on_all_replicas(model, images, labels)
    finally:
        for variable, value in changing:
            variable.assign(value)
        model.reset_metrics()
    # A strategy's scope, which this may run in, belongs to the thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        expected = thread.submit(_on_one_device, model, images, labels).result()
    for name, value in found["figures"].items():
        if not np.isclose(value, expected["figures"][name], rtol=_TOLERANCE, atol=_TOLERANCE_OF_ALL):
            raise _error(strategy, f"{name} is {value:.6g}. Expected: {expected['figures'][name]:.6g}")
    return max(_compare(strategy, kind, found[kind], expected[kind]) for kind in ("gradient", "change"))


def _on_all_replicas(model, images, labels):
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    whole = tf.data.Dataset.from_tensors((np.concatenate([images] * replicas), np.concatenate([labels] * replicas)))
    batch, step = next(iter(strategy.experimental_distribute_dataset(whole))), _step_of(model)
    return _compute(model, tf.function(lambda batch: strategy.run(step, args=batch), autograph=False), batch)


def _on_one_device(model, images, labels):
    twin = type(model).from_config(model.get_config())
    twin.build(images.shape)
    for variable, original in zip(_variables(twin), _variables(model), strict=True):
        variable.assign(original.numpy())
    step = tf.function(_step_of(twin), autograph=False)
    return _compute(twin, lambda batch: step(*batch), (tf.constant(images), tf.constant(labels)))


def _variables(model):
    """All but those of metrics."""
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def _step_of(model):
    def step(images, labels):
        with tf.GradientTape() as tape:
            embeddings = model(images, training=True)
            # Not in training: the head learns nothing then, and draws no classes and no margins.
            loss = model.compute_loss(images, labels, embeddings, training=False)
        weights = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        _replicas.average_statistics(model.embedder.non_trainable_variables, images)
        return loss, gradients

    return step


def _compute(model, step, batch):
    statistics = [v for v in model.embedder.non_trainable_variables if v.value.dtype.is_floating]
    before = [variable.numpy() for variable in statistics]
    losses, gradients = step(batch)
    strategy = model.distribute_strategy
    loss = sum(float(loss) for loss in strategy.experimental_local_results(losses))
    figures = {metric.name: float(metric.result()) for metric in model.metrics if metric.name != "loss"}
    # Gradients stay on their devices until they are compared: those of many classes would fill the host.
    return {
        "figures": {"loss": loss, **figures},
        "gradient": [
            (v.path, strategy.experimental_local_results(gradient))
            for v, gradient in zip(model.trainable_variables, gradients, strict=True)
        ],
        "change": [
            (v.path, [value - start for value in strategy.experimental_local_results(v.value)])
            for v, start in zip(statistics, before, strict=True)
        ],
    }


def _check_equal_replicas(model):
    strategy = model.distribute_strategy
    for variable in _variables(model):
        first, *others = (value.numpy() for value in strategy.experimental_local_results(variable.value))
        for number, other in enumerate(others, 1):
            if not np.array_equal(first, other, equal_nan=first.dtype.kind == "f"):
                raise _error(strategy, f"{variable.path} of replica {number} is not that of replica 0")


def _compare(strategy, kind, found, expected):
    """The largest difference of any replica from the one device, relative to all of the kind."""

    def norm(array):
        return float(np.linalg.norm(np.asarray(array, np.float32).ravel()))

    norms = [norm(only) for _, (only,) in expected]
    of_all = float(np.linalg.norm(norms))
    largest = 0.0
    for (path, values), (_, (wanted,)), size in zip(found, expected, norms, strict=True):
        allowed = _TOLERANCE * size + _TOLERANCE_OF_ALL * of_all
        for number, value in enumerate(values):
            difference = norm(np.asarray(value) - np.asarray(wanted))
            if not difference <= allowed:  # nor NaN
                raise _error(
                    strategy,
                    f"on replica {number}, the {kind} of {path} differs by {difference:.3g} (L2). "
                    f"Expected: at most {allowed:.3g}, as it is {size:.3g}",
                )
            largest = max(largest, difference / of_all if of_all else 0.0)
    return largest


def _error(strategy, difference):
    return RuntimeError(
        f"{strategy.num_replicas_in_sync} replicas do not compute what one device does: {difference}. Train on one "
        "device, or look for the cause between the devices: NCCL_P2P_DISABLE=1, another driver or TensorFlow release"
    )
