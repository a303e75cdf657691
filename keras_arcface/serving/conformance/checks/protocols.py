"""Comparison of the answers over gRPC and REST, which must be equal bit for bit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.comparison import compare
from keras_arcface.serving.conformance.context import Context
from keras_arcface.serving.conformance.sample_files import refused_files

_TWO_SERVERS = "the two addresses belong to different servers, or to different models"


def _check_version(first: Context, second: Context) -> Finding:
    versions = [f"{context.remote.protocol} version {context.remote.current}" for context in (first, second)]
    received = " and ".join(versions)
    return passed(received) if first.remote.current == second.remote.current else failed(received, _TWO_SERVERS)


def _check_metadata(first: Context, second: Context) -> Finding:
    is_equal = first.remote.describe() == second.remote.describe()
    return passed("the same") if is_equal else failed("different metadata", _TWO_SERVERS)


def _same_bits(ask: Callable[[Context], dict[str, Any]]) -> Callable[[Context, Context], Finding]:
    """Returns a check that a request has the same answer over both protocols."""

    def run(first: Context, second: Context) -> Finding:
        answer = ask(first)
        found = compare(answer, ask(second), first.tolerance)
        if found.exact:
            return passed(str(found))
        if not found.equal:
            return failed(str(found), _TWO_SERVERS)
        if not compare(answer, ask(first), first.tolerance).exact:
            return passed(f"{found}, as in repeated requests over {first.remote.protocol}")
        return failed(str(found), "a proxy or the server rounds the numbers in JSON")

    return run


def _ask_compare(context: Context) -> dict[str, Any]:
    return context.remote.run("compare", images_a=context.images, images_b=np.roll(context.images, 1, axis=0))


def _ask_bytes(context: Context) -> dict[str, Any]:
    refused = refused_files(context.images[0]).values()
    return context.remote.embed_bytes([*(file.content for file in context.files), *refused])


_SAME = "the same bits"
CHECKS = (
    Check("the same version", "the same version", _check_version),
    Check("the same metadata", "the same text", _check_metadata, ("describe",)),
    Check(
        "the same embeddings",
        _SAME,
        _same_bits(lambda context: context.remote.embed(context.images)),
        ("serving_default",),
    ),
    Check("the same from bytes", _SAME, _same_bits(_ask_bytes), ("serve_bytes",)),
    Check("the same cosines", _SAME, _same_bits(_ask_compare), ("compare",)),
)
