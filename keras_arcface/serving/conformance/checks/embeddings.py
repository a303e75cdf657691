"""Checks of the embeddings of pixels, and of the signature `compare`."""

import numpy as np

from keras_arcface.serving.client.errors import ServingError
from keras_arcface.serving.conformance.answer_causes import explain_length
from keras_arcface.serving.conformance.answer_causes import has_unit_length
from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.check import skipped
from keras_arcface.serving.conformance.comparison import compare
from keras_arcface.serving.conformance.comparison import distance
from keras_arcface.serving.conformance.context import Context


def _check_answer(context: Context) -> Finding:
    try:
        rows, dim = context.outputs["embedding"].shape
    except ServingError as error:
        context.unusable["serving_default"] = f"serving_default fails: {type(error).__name__}"
        raise
    return passed(f"{rows} embeddings of {dim} numbers")


def _check_length(context: Context) -> Finding:
    length = np.linalg.norm(context.outputs["embedding"].astype(np.float64), axis=1)
    norm = context.outputs["norm"]
    received = f"length {length.min():.6f} to {length.max():.6f}, norm {norm.min():.4g} to {norm.max():.4g}"
    if not has_unit_length(context.outputs["embedding"]):
        return failed(received, explain_length(context.outputs))
    if not ((norm > 0) & (norm < np.inf)).all():
        return failed(received, "the output `norm` is not a length")
    return passed(received)


def _check_export(context: Context) -> Finding:
    assert context.export is not None  # `needs_export`
    if context.image_size != context.export.image_size:
        sizes = [f"{height} x {width}" for height, width in (context.image_size, context.export.image_size)]
        return failed(f"images of {sizes[0]} pixels", "wrong input size", f"the export's, for {sizes[1]} pixels")
    found = compare(context.export.embed(context.images), context.outputs, context.tolerance)
    expected = f"the export's within {context.tolerance:g}"
    return passed(str(found), expected) if found.equal else failed(str(found), context.cause, expected)


def _check_repetition(context: Context) -> Finding:
    found = compare(context.outputs, context.remote.embed(context.images), context.tolerance)
    cause = "requests are answered by different models: several servers behind one address, or a random layer"
    return passed(str(found)) if found.equal else failed(str(found), cause)


def _check_different_images(context: Context) -> Finding:
    embedding = context.outputs["embedding"]
    closest = min(
        distance(embedding[[first]], embedding[[second]]) for first in range(len(embedding)) for second in range(first)
    )
    if closest > context.tolerance:
        return passed(f"different by at least {closest:.1e}")
    return failed("equal embeddings of different images", "the answer does not depend on the pixels")


def _check_colors(context: Context) -> Finding:
    swapped = context.remote.embed(np.ascontiguousarray(context.images[..., ::-1]))
    found = distance(context.outputs["embedding"], swapped["embedding"])
    if found > context.tolerance:
        return passed(f"different by {found:.1e}")
    return failed("equal embeddings", "the answer does not depend on the order of the colors")


def _check_mirror(context: Context) -> Finding:
    mirrored = (context.metadata or context.facts).get("mirrored")
    if not isinstance(mirrored, bool):
        return skipped("the metadata do not say whether mirror images are added")
    turned = context.remote.embed(np.ascontiguousarray(context.images[:, :, ::-1]))
    found = distance(context.outputs["embedding"], turned["embedding"])
    is_equal = found <= context.tolerance
    expected = f"{'equal' if mirrored else 'different'} embeddings, because mirrored is {str(mirrored).lower()}"
    received = "equal embeddings" if is_equal else f"different by {found:.1e}"
    if is_equal == mirrored:
        return passed(received, expected)
    cause = "the served model adds the mirror image" if is_equal else "the served model does not add the mirror image"
    return failed(received, f"{cause}, but its metadata say otherwise", expected)


def _check_compare(context: Context) -> Finding:
    images = context.images
    cosine = context.remote.run("compare", images_a=images, images_b=np.roll(images, 1, axis=0))["cosine"]
    embedding = context.outputs["embedding"]
    found = compare(
        {"cosine": np.sum(embedding * np.roll(embedding, 1, axis=0), axis=1)}, {"cosine": cosine}, context.tolerance
    )
    return passed(str(found)) if found.equal else failed(str(found), "compare uses another model than serving_default")


_DEFAULT = ("serving_default",)
CHECKS = (
    Check("serving_default", "embeddings", _check_answer, _DEFAULT),
    Check("length of embeddings", "length 1 within 0.001, norm above 0", _check_length, _DEFAULT),
    Check("answers of the export", "the export's", _check_export, _DEFAULT, needs_export=True),
    Check("repeated request", "the same answer", _check_repetition, _DEFAULT),
    Check("different images", "different embeddings", _check_different_images, _DEFAULT),
    Check("swapped colors", "other embeddings than for RGB", _check_colors, _DEFAULT),
    Check("mirrored images", "as the metadata say", _check_mirror, _DEFAULT),
    Check("compare", "the cosines of the embeddings", _check_compare, (*_DEFAULT, "compare")),
)
