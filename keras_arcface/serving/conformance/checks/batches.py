"""Checks of batch sizes, of concurrent requests, and the duration of requests."""

import concurrent.futures
import time

import numpy as np

from keras_arcface.serving.client import errors
from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.comparison import compare
from keras_arcface.serving.conformance.context import IMAGES
from keras_arcface.serving.conformance.context import Context
from keras_arcface.serving.conformance.error_causes import explain_error
from keras_arcface.serving.conformance.remote_model import batch_limit

_REPETITIONS = 5
_AS_SINGLE = "the answers for single images"
_SLOW_RATIO, _SLOW_SECONDS = 10, 0.2  # a first request that is slower is probably not warmed up


def _check_sizes(context: Context) -> Finding:
    single = _one_by_one(context)
    largest = 0.0
    expected = f"sizes {', '.join(map(str, context.batch_sizes))}: {_AS_SINGLE}"
    for size in context.batch_sizes:
        rows = np.arange(size) % IMAGES
        try:
            received = context.remote.request("serving_default", images=context.images[rows])
        except errors.RequestRefused as error:
            received_text = f"size {size} is refused: {context.remote.shorten(error)}"
            return failed(received_text, _explain_refusal(context, error), expected)
        found = compare({name: value[rows] for name, value in single.items()}, received, context.tolerance)
        if not found.equal:
            cause = "the embedding of an image depends on the other images of its batch, such as BatchNorm in training"
            return failed(f"size {size}: {found}", cause, expected)
        largest = max(largest, *found.differences.values())
    return passed("equal bit for bit" if largest == 0 else f"different by up to {largest:.1e}", expected)


def _one_by_one(context: Context) -> dict[str, np.ndarray]:
    """Returns the outputs of separate requests for each image."""
    outputs = [context.remote.embed(context.images[[row]]) for row in range(IMAGES)]
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def _explain_refusal(context: Context, error: errors.ServingError) -> str:
    limit = batch_limit(error)
    if limit is None:
        return explain_error(error)
    return (
        f"the largest batch of the server is {limit} (max_batch_size and allowed_batch_sizes in batching.config), "
        f"smaller than {max(context.batch_sizes)}: requests of FaceClient need batch_size={limit}"
    )


def _check_larger(context: Context) -> Finding:
    size = max(context.batch_sizes) + 1
    rows = np.arange(size) % IMAGES
    expected = f"{size} images: the right answer, or RequestRefused"
    try:
        received = context.remote.request("serving_default", images=context.images[rows])
    except errors.RequestRefused as error:
        return passed(f"RequestRefused: {_last_part(context.remote.shorten(error))}", expected)
    found = compare({name: value[rows] for name, value in context.outputs.items()}, received, context.tolerance)
    if found.equal:
        return passed(f"accepted, {found}", expected)
    return failed(
        str(found), "the server splits a request that is larger than a batch wrongly, or drops rows of it", expected
    )


def _last_part(message: str) -> str:
    return message.removeprefix("RequestRefused: ").split(". Sent:")[0]


def _check_concurrency(context: Context) -> Finding:
    single = context.outputs

    def ask(row: int) -> dict[str, np.ndarray]:
        other = context.remote.other(version=context.remote.current)
        try:
            other.current = context.remote.current
            return other.embed(context.images[[row]])
        finally:
            other.close()

    with concurrent.futures.ThreadPoolExecutor(IMAGES) as pool:
        outputs = list(pool.map(ask, range(IMAGES)))
    received = {name: np.concatenate([output[name] for output in outputs]) for name in single}
    found = compare(single, received, context.tolerance)
    if found.equal:
        return passed(str(found))
    return failed(str(found), "answers of concurrent requests are mixed up, or servers behind the address differ")


def _measure_duration(context: Context) -> Finding:
    seconds = []
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        context.remote.embed(context.images[:1])
        seconds.append(time.perf_counter() - started)
    first, later = context.first_seconds or seconds[0], float(np.median(seconds))
    text = f"first {1000 * first:.1f} ms, later {1000 * later:.1f} ms ({first / later:.1f} times)"
    if first > _SLOW_SECONDS and first > _SLOW_RATIO * later:
        return Finding("info", text, "the server did not run the warm-up requests when it loaded the model")
    return Finding("info", text)


_DEFAULT = ("serving_default",)
CHECKS = (
    Check("first request", "about as fast as later ones (cannot fail)", _measure_duration, _DEFAULT),
    Check("batch sizes", _AS_SINGLE, _check_sizes, _DEFAULT),
    Check("larger batch", "the right answer, or RequestRefused", _check_larger, _DEFAULT),
    Check("concurrent requests", "the answers of separate requests", _check_concurrency, _DEFAULT),
)
