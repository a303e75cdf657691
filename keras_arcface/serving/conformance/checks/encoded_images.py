"""Checks of encoded images: formats, damaged images, and the rows beside them."""

from collections.abc import Sequence

import numpy as np

from keras_arcface.serving.client.errors import ServingError
from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.comparison import compare
from keras_arcface.serving.conformance.comparison import distance
from keras_arcface.serving.conformance.context import Context
from keras_arcface.serving.conformance.error_causes import explain_error
from keras_arcface.serving.conformance.sample_files import refused_files
from keras_arcface.serving.conformance.sample_files import resized_file

_NO_CAUSE = "the graph decodes images differently from the export of this package"


def _check_answer(context: Context) -> Finding:
    file = next(file for file in context.files if file.name == "PNG")
    try:
        outputs = context.remote.embed_bytes([file.content])
    except ServingError as error:
        context.unusable["serve_bytes"] = f"serve_bytes fails: {type(error).__name__}"
        only_bytes = "" if "serving_default" in context.unusable else "the server fails when it decodes images"
        cause = explain_error(error) or only_bytes
        return failed(context.remote.shorten(error), cause)
    if not outputs["valid"].all():
        return failed("valid is false", _NO_CAUSE)
    return passed("valid is true")


def _check_formats(context: Context) -> Finding:
    files = context.files
    outputs = context.remote.embed_bytes([file.content for file in files])
    names = [file.name for file in files]
    if not outputs["valid"].all():
        return failed(f"valid is false for {_join(names, ~outputs['valid'])}", _NO_CAUSE, _join(names))
    return passed(f"valid is true for all {len(files)}", _join(names))


def _check_pixels(context: Context) -> Finding:
    files = context.files
    received = context.remote.embed_bytes([file.content for file in files])
    pixels = np.stack([file.pixels for file in files])
    expected = context.remote.embed(pixels)
    found = compare(expected, received, context.tolerance)
    if found.equal:
        return passed(str(found))
    swapped = context.remote.embed(np.ascontiguousarray(pixels[..., ::-1]))
    names = _join([file.name for file in files], np.isin(np.arange(len(files)), found.rows))
    cause = _NO_CAUSE
    if distance(swapped["embedding"], received["embedding"]) <= context.tolerance:
        cause = "serve_bytes equals serving_default for BGR images: the color order of decoded images is swapped"
    return failed(f"different for {names}", cause)


def _check_export(context: Context) -> Finding:
    assert context.export is not None  # `needs_export`
    image = context.images[0]
    contents = {file.name: file.content for file in context.files} | {"an image to resize": resized_file(image)}
    contents |= refused_files(image)
    expected = context.export.run("serve_bytes", image_bytes=list(contents.values()))
    received = context.remote.embed_bytes(list(contents.values()))
    found = compare(expected, received, context.tolerance)
    if found.equal:
        return passed(str(found), f"the export's within {context.tolerance:g}")
    names = _join(list(contents), np.isin(np.arange(len(contents)), found.rows)) if found.rows else str(found)
    return failed(f"different for {names}", context.cause or _NO_CAUSE, f"the export's within {context.tolerance:g}")


def _check_refused(context: Context) -> Finding:
    files = refused_files(context.images[0])
    outputs = context.remote.embed_bytes(list(files.values()))
    names, valid = list(files), outputs["valid"]
    expected = f"valid is false, zeros for {_join(names)}"
    if valid.any():
        return failed(f"valid is true for {_join(names, valid)}", _NO_CAUSE, expected)
    is_zero = (outputs["embedding"] == 0).all(axis=1) & (outputs["norm"] == 0)
    if not is_zero.all():
        return failed(f"embeddings that are not zero for {_join(names, ~is_zero)}", _NO_CAUSE, expected)
    return passed("valid is false, zeros", expected)


def _check_neighbors(context: Context) -> Finding:
    good = [file.content for file in context.files]
    damaged = list(refused_files(context.images[0]).values())
    rows: list[int] = []
    clean: list[bytes] = []
    mixed: list[bytes] = []
    for number in range(max(len(good), len(damaged))):
        rows.append(len(mixed))
        clean += [good[number % len(good)], good[0]]
        mixed += [good[number % len(good)], damaged[number % len(damaged)]]
    expected, received = (
        {name: value[rows] for name, value in context.remote.embed_bytes(images).items()} for images in (clean, mixed)
    )
    found = compare(expected, received, context.tolerance)
    if found.equal:
        return passed(str(found))
    return failed(str(found), "a damaged image affects the other images of its batch")


def _join(names: Sequence[str], chosen: np.ndarray | None = None) -> str:
    return ", ".join(name for number, name in enumerate(names) if chosen is None or chosen[number])


_BYTES = ("serve_bytes",)
CHECKS = (
    Check("serve_bytes", "valid is true for a PNG", _check_answer, _BYTES),
    Check("image formats", "valid is true", _check_formats, _BYTES),
    Check("pixels of encoded images", "the embeddings of the pixels", _check_pixels, (*_BYTES, "serving_default")),
    Check("damaged images", "valid is false, zeros", _check_refused, _BYTES),
    Check("rows beside damaged images", "the same as beside good images", _check_neighbors, _BYTES),
    Check("encoded images of the export", "the export's", _check_export, _BYTES, needs_export=True),
)
