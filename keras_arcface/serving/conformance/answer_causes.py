"""Causes of embeddings that differ from the export's, found by comparing them with its answers for other images.

If a server swaps the color channels, for example, its answers equal the export's for BGR images.
"""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_arcface.serving.client.answer_checks import LENGTH_TOLERANCE
from keras_arcface.serving.conformance.comparison import distance
from keras_arcface.serving.conformance.comparison import unit
from keras_arcface.serving.conformance.export_reference import ExportReference
from keras_arcface.serving.conformance.export_reference import identity

LOW_PRECISION = 3e-2  # largest difference that rounding to 16 bits explains, as in `check_saved_model`
_CLEARLY = 4  # an explanation in lower precision must be this many times closer than no explanation

Outputs = dict[str, np.ndarray]

_ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "for BGR images: the color order is swapped": lambda images: images[..., ::-1],
    "for mirrored images: the images are mirrored": lambda images: images[:, :, ::-1],
    "for images that are upside down: the order of the rows is reversed": lambda images: images[:, ::-1],
    "for transposed images: height and width are swapped": lambda images: images.transpose(0, 2, 1, 3),
    "for gray images: the colors are dropped": lambda images: np.repeat(
        np.round(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., np.newaxis], 3, axis=3
    ),
}


class _Candidate(NamedTuple):
    text: str
    expected: np.ndarray
    received: np.ndarray


def explain_embeddings(
    images: np.ndarray,
    received: Outputs,
    export: ExportReference,
    ask: Callable[[np.ndarray], Outputs],
    tolerance: float,
    served_metadata: dict[str, Any] | None = None,
) -> str:
    """Returns why the embeddings of a server differ from those of the export.

    Args:
        images: uint8 images `(n, height, width, 3)` that the server embedded.
        received: outputs of the server for the images.
        export: the SavedModel that the server should serve.
        ask: function that sends other images to the server and returns its outputs.
        tolerance: allowed difference of unit embeddings.
        served_metadata: metadata of the served model, or None if it has none.

    Returns:
        The cause, or what is known about it.
    """
    expected = export.embed(images)
    weights = explain_weights(served_metadata, export)
    if expected["embedding"].shape != received["embedding"].shape:
        dims = [outputs["embedding"].shape[1] for outputs in (received, expected)]
        return weights or f"another model is served: its embeddings have {dims[0]} numbers, the export's {dims[1]}"
    causes = []
    if not has_unit_length(received["embedding"]):
        causes.append(explain_length(received))
    own = distance(expected["embedding"], received["embedding"])
    if own > tolerance:
        candidate = _find_candidate(images, expected, received, export, ask, tolerance, own)
        causes.append(candidate or weights or _describe_difference(expected, received, own))
    elif not causes:
        causes.append(_explain_norm(expected["norm"], received["norm"]))
    return "; ".join(causes)


def has_unit_length(embedding: np.ndarray) -> bool:
    """Returns whether all rows have length 1."""
    length = np.linalg.norm(embedding.astype(np.float64), axis=1)
    return bool((np.abs(length - 1) <= LENGTH_TOLERANCE).all())


def explain_length(received: Outputs) -> str:
    """Returns why embeddings do not have length 1."""
    length = np.linalg.norm(received["embedding"].astype(np.float64), axis=1)
    if not np.isfinite(length).all():
        return "the embeddings are not finite: the network overflows, for example because it computes in float16"
    if np.allclose(length, received["norm"], rtol=LENGTH_TOLERANCE):
        return "the embedding is not L2-normalized: its length equals the output `norm`"
    return f"the embedding is not L2-normalized: its length is {length.min():.3g} to {length.max():.3g} instead of 1"


def explain_weights(served: dict[str, Any] | None, export: ExportReference) -> str:
    """Returns why the server may serve another export, from its metadata, or an empty string."""
    if not served or not export.metadata or identity(served) == identity(export.metadata):
        return ""
    version = export.version_with(served)
    if version is not None:
        newer = export.version is not None and version < export.version
        kind = "an old version is still served" if newer else "another version is served"
        return f"{kind}: its metadata is that of version {version} in {export.directory.absolute().parent}"
    hashes = [str(metadata.get("weights_sha256", "unknown"))[:12] for metadata in (served, export.metadata)]
    if hashes[0] != hashes[1]:
        return f"another model is served: the sha256 of its weights is {hashes[0]}..., the export's is {hashes[1]}..."
    if served.get("mirrored") != export.metadata.get("mirrored"):
        return "the served model was exported with another value of `mirror`"
    created = served.get("created", "unknown"), export.metadata.get("created", "unknown")
    return f"another export of the same weights is served: created {created[0]}, the export {created[1]}"


def _find_candidate(
    images: np.ndarray,
    expected: Outputs,
    received: Outputs,
    export: ExportReference,
    ask: Callable[[np.ndarray], Outputs],
    tolerance: float,
    own: float,
) -> str:
    """Returns the text of the candidate that explains the difference `own`, or an empty string."""
    order = _row_order(expected["embedding"], received["embedding"], tolerance)
    if order is not None:
        return f"the rows of the answer are in another order: its rows are those of the images {order}"
    closest, text = np.inf, ""
    for candidate in _candidates(images, expected, received, export, ask):
        found = distance(candidate.expected, candidate.received)
        if found <= tolerance:
            return candidate.text
        if found < closest:
            closest, text = found, candidate.text
    if closest <= LOW_PRECISION and closest * _CLEARLY < own:
        return f"{text} (within {closest:.1e}, so that the server also computes in lower precision)"
    return ""


def _describe_difference(expected: Outputs, received: Outputs, own: float) -> str:
    smallest = float(np.min(np.sum(unit(expected["embedding"]) * unit(received["embedding"]), axis=1)))
    if own <= LOW_PRECISION:
        return (
            f"the server computes in lower precision, such as TF32 on a GPU, float16 or int8: the smallest cosine with "
            f"the export's embeddings is {smallest:.6f}. If that is intended, allow it: --tolerance {_round_up(own)}"
        )
    return f"unknown: the smallest cosine with the export's embeddings is {smallest:.3f}; another model may be served"


def _candidates(
    images: np.ndarray,
    expected: Outputs,
    received: Outputs,
    export: ExportReference,
    ask: Callable[[np.ndarray], Outputs],
) -> Iterator[_Candidate]:
    """Yields explanations, each with embeddings that would be equal. Those without further requests come first."""
    start = "the server's answer equals the export's"
    for text, alter in _ALTERATIONS.items():
        altered = alter(images)
        if altered.shape == images.shape:
            altered = np.ascontiguousarray(altered)
            yield _Candidate(f"{start} {text}", export.embed(altered)["embedding"], received["embedding"])
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    yield _Candidate(
        "the served model adds the embedding of the mirror image, the export does not: `mirror` of the export differs",
        _raw(expected) + _raw(export.embed(mirrored)),
        received["embedding"],
    )
    yield _Candidate(
        "the export adds the embedding of the mirror image, the served model does not: `mirror` of the export differs",
        expected["embedding"],
        _raw(received) + _raw(ask(mirrored)),
    )
    white, dark = np.full_like(images[:1], 255), np.full_like(images[:1], 1)
    exported = {name: export.embed(image)["embedding"] for name, image in (("white", white), ("dark", dark))}
    # Without normalization, pixels of 1 become 1, as the export's pixels of 255 do. Applied twice, those of 255 become
    # 1 / 127.5 - 1, as the export's pixels of 1 do.
    if distance(exported["white"], exported["dark"]) > LOW_PRECISION:
        yield _Candidate(
            "the pixels are not normalized: x / 127.5 - 1 is missing", exported["white"], ask(dark)["embedding"]
        )
        yield _Candidate(
            "the pixels are normalized twice: x / 127.5 - 1 is applied to its own result",
            exported["dark"],
            ask(white)["embedding"],
        )
    odd = images | 1
    yield _Candidate(
        "the pixels are normalized to [0, 1], as x / 255, instead of x / 127.5 - 1",
        export.embed(odd // 2 + 128)["embedding"],
        ask(odd)["embedding"],
    )


def _row_order(expected: np.ndarray, received: np.ndarray, tolerance: float) -> list[int] | None:
    """Returns the image of each row if the rows are those of other images, or None."""
    difference = np.abs(unit(expected)[np.newaxis] - unit(received)[:, np.newaxis]).max(axis=2)
    order = difference.argmin(axis=1)
    is_another = (difference.min(axis=1) <= tolerance).all() and (order != np.arange(len(order))).any()
    return order.tolist() if is_another else None


def _explain_norm(expected: np.ndarray, received: np.ndarray) -> str:
    ratio = received / np.maximum(expected, np.finfo(np.float32).tiny)
    if np.allclose(ratio, ratio[0], rtol=1e-3):
        return f"the embeddings equal the export's, but the output `norm` is {ratio[0]:.3g} times the export's"
    return "the embeddings equal the export's, but the output `norm` does not"


def _raw(outputs: Outputs) -> np.ndarray:
    """Returns the embeddings before normalization."""
    return unit(outputs["embedding"]) * outputs["norm"][:, np.newaxis]


def _round_up(value: float) -> str:
    exponent = np.floor(np.log10(value))
    return f"{np.ceil(value / 10**exponent) * 10**exponent:.0e}"
