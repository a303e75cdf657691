"""Checks of the warm-up requests in an export."""

from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.check import skipped
from keras_arcface.serving.conformance.comparison import compare
from keras_arcface.serving.conformance.context import Context
from keras_arcface.serving.saved_model.warmup import MAX_REQUESTS
from keras_arcface.serving.saved_model.warmup import WARMUP_FILE

_NOT_LOADED = "a server does not load a model with such a file"


def _check_file(context: Context) -> Finding:
    assert context.export is not None  # `needs_export`
    sizes = context.export.metadata.get("warmup_batch_sizes", [])
    if not context.export.has_warmup_requests:
        if not sizes:
            return skipped("exported without warm-up requests: warmup_batch_sizes=()")
        cause = (
            f"{WARMUP_FILE} was lost when the export was copied, or tensorflow-serving-api was missing at the export"
        )
        return failed("no file", cause, str(WARMUP_FILE))
    try:
        requests = context.export.read_warmup_requests()
    except ValueError as error:
        return failed(str(error), _NOT_LOADED, str(WARMUP_FILE))
    received = f"{len(requests)} requests"
    expected = f"1 to {MAX_REQUESTS} requests, for {', '.join(context.export.signatures)}"
    missing = sorted(context.expected_signatures - {request.signature for request in requests})
    if not requests or len(requests) > MAX_REQUESTS:
        return failed(received, _NOT_LOADED, expected)
    if missing:
        return failed(f"{received}, none for {', '.join(missing)}", "these signatures are not warmed up", expected)
    return passed(f"{received} for the sizes {', '.join(map(str, sizes))}", expected)


def _check_requests(context: Context) -> Finding:
    assert context.export is not None  # `needs_export`
    try:
        readable = context.export.read_warmup_requests()
    except ValueError:
        return skipped("the warm-up file is damaged")
    requests = [request for request in readable if request.signature not in context.unusable]
    if not requests:
        return skipped("the export has no warm-up requests")
    if context.image_size != context.export.image_size:
        return skipped("the served model takes images of another size")
    largest, sent = 0.0, 0
    for request in requests:
        expected = context.export.run(request.signature, **request.inputs)
        received = context.remote.request(request.signature, **request.inputs)
        if request.signature == "describe":  # compared by the check "metadata"
            continue
        found = compare(expected, received, context.tolerance)
        if not found.equal:
            rows = len(next(iter(request.inputs.values())))
            return failed(f"{request.signature}, batch size {rows}: {found}", context.cause)
        largest, sent = max(largest, *found.differences.values()), sent + 1
    difference = "equal bit for bit" if largest == 0 else f"different by up to {largest:.1e}"
    return passed(f"{sent} answers, {difference}", f"the export's within {context.tolerance:g}")


CHECKS = (
    Check("warm-up file of the export", str(WARMUP_FILE), _check_file, needs_export=True),
    Check("warm-up requests", "the export's answers", _check_requests, needs_export=True),
)
