"""Checks of the signatures, their inputs and outputs, and the metadata."""

from typing import Any

from keras_arcface.serving.client.transport import Signature
from keras_arcface.serving.client.transport import TensorSpec
from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.check import skipped
from keras_arcface.serving.conformance.context import Context

_ROWS = 3


def _check_names(context: Context) -> Finding:
    expected, received = context.expected_signatures, set(context.remote.signatures)
    missing = sorted(expected - received)
    shown = ", ".join(sorted(name for name in received if not name.startswith("__")))
    if not missing:
        return passed(shown, ", ".join(sorted(expected)))
    names = " and ".join(missing)
    if missing == ["compare"]:
        cause = "the served model lacks the signature compare: it was exported without compare=True"
    else:
        kind = "signature" if len(missing) == 1 else "signatures"
        cause = f"the served model lacks the {kind} {names}: it was not exported by export_saved_model of this package"
    if context.other_export:
        cause = f"{cause}; {context.other_export}"
    return failed(f"no {names}; the model has {shown or 'none'}", cause, ", ".join(sorted(expected)))


def _check_specs(context: Context) -> Finding:
    expected = _expected_specs(context)
    wrong = []
    for name, signature in expected.items():
        if name not in context.remote.signatures:
            continue
        for kind in ("inputs", "outputs"):
            served, required = getattr(context.remote.signatures[name], kind), getattr(signature, kind)
            for tensor, spec in required.items():
                if tensor not in served:
                    wrong.append(f"{name}: no {kind[:-1]} {tensor}")
                elif not _matches(spec, served[tensor]):
                    wrong.append(f"{name}: {tensor} {served[tensor]} instead of {spec}")
            wrong += [f"{name}: an additional input {tensor}" for tensor in served if _is_extra(kind, tensor, required)]
    first = next(iter(expected.values())).inputs
    shown = ", ".join(f"{name} {spec}" for name, spec in first.items())
    if not wrong:
        return passed("equal", f"{'the export' if context.export else 'the documentation'}'s, such as {shown}")
    return failed("; ".join(wrong), _explain_specs(context, expected), f"such as {shown}")


def _is_extra(kind: str, tensor: str, required: dict[str, TensorSpec]) -> bool:
    return kind == "inputs" and tensor not in required


def _matches(expected: TensorSpec, received: TensorSpec) -> bool:
    """Returns whether two descriptions state the same type and shape. A size that one leaves open is any size."""
    if expected.dtype != received.dtype:
        return False
    if expected.shape is None or received.shape is None:
        return True
    return len(expected.shape) == len(received.shape) and all(
        first == second or None in (first, second) for first, second in zip(expected.shape, received.shape, strict=True)
    )


def _expected_specs(context: Context) -> dict[str, Signature]:
    """Returns the signatures of the export, otherwise those of the documentation with the size in the metadata."""
    if context.export is not None:
        return {name: context.export.signatures[name] for name in sorted(context.expected_signatures)}
    height, width = context.facts.get("image_size") or context.image_size
    images, strings = TensorSpec("uint8", (None, height, width, 3)), TensorSpec("string", (None,))
    floats = TensorSpec("float32", (None,))
    outputs = {"embedding": TensorSpec("float32", (None, context.facts.get("embedding_size"))), "norm": floats}
    documented = {
        "serving_default": Signature({"images": images}, outputs),
        "serve_bytes": Signature({"image_bytes": strings}, outputs | {"valid": TensorSpec("bool", (None,))}),
        "compare": Signature({"images_a": images, "images_b": images}, {"cosine": floats}),
        "describe": Signature({"request": strings}, {"metadata": strings}),
    }
    return {name: spec for name, spec in documented.items() if name in context.expected_signatures}


def _explain_specs(context: Context, expected: dict[str, Signature]) -> str:
    if "serving_default" in expected:
        shape: Any = expected["serving_default"].inputs["images"].shape
        served = context.image_size
        if shape is not None and tuple(shape[1:3]) != served:
            sizes = [f"{height} x {width}" for height, width in (served, shape[1:3])]
            stated = "the export" if context.export is not None else "its metadata"
            return f"wrong input size: the served model takes images of {sizes[0]} pixels, {stated} says {sizes[1]}"
    return context.other_export or "another model is served, or it was not exported by export_saved_model"


def _check_metadata(context: Context) -> Finding:
    rows = context.remote.describe(_ROWS)
    metadata = context.remote.metadata()
    if len(set(rows)) != 1:
        return failed(f"different metadata in {_ROWS} rows")
    name, size = metadata.get("name"), metadata.get("embedding_size")
    shown = f"{name!r}, {size} numbers, {len(metadata.get('thresholds', {}))} thresholds"
    if context.export is None:
        return passed(shown, "the JSON of an export, with readable thresholds")
    if not context.export.metadata:
        return skipped("the export has no metadata file")
    different = sorted(
        key for key in {*metadata, *context.export.metadata} if metadata.get(key) != context.export.metadata.get(key)
    )
    if not different:
        return passed(shown, "the metadata of the export")
    cause = context.other_export or f"the metadata were changed after the export: {', '.join(different)}"
    return failed(f"different values of {', '.join(different)}", cause, "the metadata of the export")


CHECKS = (
    Check("signatures", "", _check_names),
    Check("inputs and outputs", "", _check_specs),
    Check("metadata", "", _check_metadata, signatures=("describe",)),
)
