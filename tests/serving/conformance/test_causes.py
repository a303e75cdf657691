"""Faults in the answers of a server, one after the other, and the cause that is named."""

import itertools
import json
import re
import shutil
import time

import exported_models
import numpy as np
import pytest
import rest_double
import small_models
import tensorflow as tf
from conftest import decode
from model_double import Code
from model_double import Refusal
from server_double import ServerDouble

from keras_arcface.serving import check_server

EMBEDDING = ("serving_default", "serve_bytes")


def on_pixels(alter):
    """Returns a fault that alters the pixels before the healthy model embeds them."""

    def fault(run, name, inputs):
        if name == "serving_default":
            inputs = {"images": tf.constant(np.ascontiguousarray(alter(inputs["images"].numpy())))}
        return run(name, inputs)

    return fault


def on_outputs(alter):
    """Returns a fault that alters embedding, norm and valid."""

    def fault(run, name, inputs):
        outputs = run(name, inputs)
        return alter(dict(outputs)) if name in EMBEDDING else outputs

    return fault


def mirrored_sum(run, name, inputs):
    """Adds the embedding of the mirror image."""
    outputs = run(name, inputs)
    if name != "serving_default":
        return outputs
    mirrored = run(name, {"images": inputs["images"][:, :, ::-1]})
    raw = sum(each["embedding"] * each["norm"][:, np.newaxis] for each in (outputs, mirrored))
    norm = np.linalg.norm(raw, axis=1)
    return {"embedding": raw / norm[:, np.newaxis], "norm": norm}


def in_float16(outputs):
    rounded = outputs["embedding"].astype(np.float16).astype(np.float32)
    rounded[:, 0] += np.float32(1e-3)
    return outputs | {"embedding": rounded}


def refused_above(limit):
    """Refuses larger batches with the message of TensorFlow Serving's batching."""

    def fault(run, name, inputs):
        rows = next(iter(inputs.values())).shape[0]
        if rows > limit:
            message = f"Task size {rows} is larger than maximum input batch size {limit}"
            raise Refusal(Code.INVALID_ARGUMENT, message)
        return run(name, inputs)

    return fault


def fails(code, message, names=EMBEDDING):
    def fault(run, name, inputs):
        if name in names:
            raise Refusal(code, message)
        return run(name, inputs)

    return fault


def without_decoding(run, name, inputs):
    """Fails for batches with a damaged image, as the decoding ops of TensorFlow do."""
    if name != "serve_bytes":
        return run(name, inputs)
    outputs = run(name, inputs)
    if not outputs["valid"].all():
        raise Refusal(Code.INVALID_ARGUMENT, "Unknown image file format. One of JPEG, PNG, GIF, BMP required.")
    return outputs


def marking_nothing(run, name, inputs):
    outputs = dict(run(name, inputs))
    if name == "serve_bytes":
        outputs["valid"] = np.ones_like(outputs["valid"])
    return outputs


def blind_to_damage(run, name, inputs):
    """Lets a damaged image change the row before it."""
    outputs = {key: np.copy(value) for key, value in run(name, inputs).items()}
    if name == "serve_bytes":
        for row in np.flatnonzero(~outputs["valid"]):
            outputs["embedding"][row - 1] = np.eye(outputs["embedding"].shape[1], dtype=np.float32)[0]
    return outputs


def depending_on_the_batch(run, name, inputs):
    outputs = dict(run(name, inputs))
    if name == "serving_default":
        raw = outputs["embedding"] + np.float32(0.1) * outputs["embedding"].mean(axis=0)
        outputs["embedding"] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return outputs


def bytes_in_bgr(run, name, inputs):
    if name != "serve_bytes":
        return run(name, inputs)
    outputs = dict(run(name, inputs))
    if not outputs["valid"].all():
        return outputs
    images = np.stack([decode(image) for image in inputs["image_bytes"].numpy()])
    return outputs | run("serving_default", {"images": tf.constant(images[..., ::-1])})


CASES = {
    "BGR": (on_pixels(lambda images: images[..., ::-1]), "answers of the export", "color order is swapped"),
    "mirrored": (on_pixels(lambda images: images[:, :, ::-1]), "answers of the export", "the images are mirrored"),
    "rows": (on_pixels(lambda images: images[:, ::-1]), "answers of the export", "the order of the rows is reversed"),
    "transposed": (
        on_pixels(lambda images: images.transpose(0, 2, 1, 3)),
        "answers of the export",
        "height and width are swapped",
    ),
    "mirror image added": (mirrored_sum, "answers of the export", "served model adds the embedding of the mirror"),
    "mirror image in metadata": (mirrored_sum, "mirrored images", "the served model adds the mirror image, but"),
    "order of rows": (
        on_outputs(lambda outputs: {name: value[::-1] for name, value in outputs.items()}),
        "answers of the export",
        "the rows of the answer are in another order: its rows are those of the images [7, 6, 5, 4, 3, 2, 1, 0]",
    ),
    "precision": (on_outputs(in_float16), "answers of the export", "lower precision, such as TF32"),
    "half the length": (
        on_outputs(lambda outputs: outputs | {"embedding": outputs["embedding"] / 2}),
        "length of embeddings",
        "not L2-normalized: its length is 0.5 to 0.5",
    ),
    "not finite": (
        on_outputs(lambda outputs: outputs | {"embedding": outputs["embedding"] * np.float32(np.nan)}),
        "length of embeddings",
        "the embeddings are not finite",
    ),
    "constant": (
        on_outputs(lambda outputs: outputs | {"embedding": outputs["embedding"] * 0 + np.float32(0.25)}),
        "different images",
        "the answer does not depend on the pixels",
    ),
    "gray": (
        on_pixels(lambda images: np.repeat(images.mean(axis=3, keepdims=True).astype(np.uint8), 3, axis=3)),
        "swapped colors",
        "does not depend on the order of the colors",
    ),
    "batch limit": (refused_above(2), "batch sizes", "the largest batch of the server is 2 (max_batch_size"),
    "batch statistics": (depending_on_the_batch, "batch sizes", "depends on the other images of its batch"),
    "missing op": (
        fails(Code.INTERNAL, "Op type not registered 'DecodeImage' in binary running on faces"),
        "serving_default",
        "built without the op DecodeImage",
    ),
    "memory": (
        fails(Code.RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[8,64,112,112]"),
        "serving_default",
        "not enough memory",
    ),
    "BGR in bytes": (bytes_in_bgr, "pixels of encoded images", "the color order of decoded images is swapped"),
    "damage fails": (without_decoding, "damaged images", ""),
    "damage is valid": (marking_nothing, "damaged images", "decodes images differently"),
    "damage spreads": (blind_to_damage, "rows beside damaged images", "affects the other images of its batch"),
    "another compare": (
        lambda run, name, inputs: (
            {n: v * (0.5 if name == "compare" else 1) for n, v in run(name, inputs).items()}
            if name != "describe"
            else run(name, inputs)
        ),
        "compare",
        "compare uses another model",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_of_a_fault_is_named(case, plant, check, only):
    fault, name, cause = CASES[case]
    plant(fault)
    only(name)
    report = check("grpc")
    (result,) = [result for result in report.results if result.check == name]
    print(f"{result.check}: {result.received}\n  {result.cause}")
    assert result.result == "failed"
    assert cause in result.cause


def test_a_larger_batch_may_be_refused(plant, check):
    plant(refused_above(4))
    report = check()
    assert report.passed
    (grpc, rest) = [result for result in report.results if result.check == "larger batch"]
    assert grpc.received == "RequestRefused: INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4"
    assert rest.received == "RequestRefused: HTTP 400: Task size 5 is larger than maximum input batch size 4"


def test_numbers_that_rest_rounds_are_named(check, only, monkeypatch):
    only("the same embeddings", "the same from bytes", "the same cosines")
    written = rest_double._write_outputs

    def rounded(*arguments):
        return re.sub(r"0\.\d{5,}", lambda found: found[0][:7], written(*arguments))

    monkeypatch.setattr(rest_double, "_write_outputs", rounded)
    report = check()
    results = {result.check: result for result in report.results if result.protocol == "both"}
    for name in ("the same embeddings", "the same from bytes", "the same cosines"):
        assert results[name].result == "failed"
        assert results[name].cause == "a proxy or the server rounds the numbers in JSON"
    assert {result.protocol for result in report.failures} == {"both"}


def test_answers_that_vary_need_not_have_the_same_bits(plant, check, only):
    """As on a GPU, or when a server batches the requests of several clients."""
    only("repeated request", "rows beside damaged images", "concurrent requests", "the same embeddings")
    factors = itertools.cycle([1.0, 1.00001, 1.00002])

    def vary(outputs):
        return outputs | {"norm": outputs["norm"] * np.float32(next(factors))}

    plant(on_outputs(vary))
    report = check()
    assert report.passed, report.failures
    (result,) = [result for result in report.results if result.check == "the same embeddings"]
    assert result.received.endswith("(norm), as in repeated requests over grpc")


def test_two_servers_are_named(double, served, only):
    only("the same version", "the same metadata", "the same embeddings", "the same from bytes", "the same cosines")
    with served(lambda path: exported_models.export_model(exported_models.make_network(seed=2), path)) as other:
        report = check_server([double.grpc, other.rest])
    causes = {result.check: result.cause for result in report.failures}
    assert set(causes) == {"the same metadata", "the same embeddings", "the same from bytes", "the same cosines"}
    assert set(causes.values()) == {"the two addresses belong to different servers, or to different models"}


def test_slow_first_requests_are_information(plant, check, only):
    only("first request")
    slow = [True]

    def fault(run, name, inputs):
        if name == "serving_default" and slow:
            slow.clear()
            time.sleep(1)
        return run(name, inputs)

    plant(fault)
    report = check("grpc")
    assert report.passed
    (result,) = [result for result in report.results if result.check == "first request"]
    assert result.result == "info"
    assert "did not run the warm-up requests" in result.cause


def test_a_label_that_is_not_assigned(check):
    for report in (check("grpc", label="canary"), check("rest", label="canary")):
        assert [result.check for result in report.failures] == ["connection"]
        assert "the label is not assigned to a loaded version" in report.causes[0]


def test_a_version_and_a_model_that_are_not_served(check):
    report = check(version=7)
    assert {result.check for result in report.failures} == {"connection"}
    assert "Available: 2" in report.failures[0].received
    assert report.causes[0].startswith("the version is not loaded")
    assert check("rest", model="cars").causes[0].startswith("no model with this name is served")


def test_ports_that_are_closed_or_exchanged(double):
    ports = {name: getattr(double, name).rpartition(":")[2] for name in ("grpc", "rest")}
    for address, cause in (
        ("http://127.0.0.1:1", "nothing listens at this port"),
        ("grpc://127.0.0.1:1", "nothing listens at this port"),
        (f"http://127.0.0.1:{ports['grpc']}", "the port does not answer HTTP/1; it may be the gRPC port"),
        (f"grpc://127.0.0.1:{ports['rest']}", "the port does not answer HTTP/2; it may be the REST port"),
        ("http://no-such-host.invalid:8501", "the name of the host has no address"),
        ("grpc://no-such-host.invalid:8500", "the name of the host has no address"),
    ):
        report = check_server(address, retries=0, timeout=5)
        print(address, report.failures[0].received, report.causes)
        assert len(report.causes) == 1
        assert cause in report.causes[0]


def test_one_closed_port_does_not_stop_the_other_protocol(double, base, only):
    only("version", "the same version")
    report = check_server([double.grpc, "http://127.0.0.1:1"], export=base / "faces", retries=0)
    assert [(result.check, result.protocol) for result in report.failures] == [("connection", "rest")]
    assert {result.protocol for result in report.results if result.result == "passed"} == {"grpc"}


def test_a_missing_warmup_file(check, base, tmp_path, only):
    only("warm-up file of the export", "warm-up requests")
    copy = shutil.copytree(base / "faces" / "2", tmp_path / "faces" / "2")
    (copy / "assets.extra" / "tf_serving_warmup_requests").unlink()
    report = check("grpc", export=copy)
    assert [result.check for result in report.failures] == ["warm-up file of the export"]
    assert "was lost when the export was copied" in report.causes[0]


@pytest.mark.parametrize("content", [b"", b"no TFRecord", bytes(100)])
def test_a_damaged_warmup_file(content, check, base, tmp_path, only):
    only("warm-up file of the export", "warm-up requests")
    copy = shutil.copytree(base / "faces" / "2", tmp_path / "faces" / "2")
    (copy / "assets.extra" / "tf_serving_warmup_requests").write_bytes(content)
    report = check("grpc", export=copy)
    assert [result.check for result in report.failures] == ["warm-up file of the export"]
    assert report.causes == ("a server does not load a model with such a file",)
    assert [each.result for each in report.results if each.check == "warm-up requests"] == ["skipped"]


@pytest.mark.parametrize("signatures", [("serving_default",), ("serve_bytes", "describe")])
def test_an_export_of_other_software_is_refused(signatures, check, tmp_path):
    small_models.write(small_models.Projection(1), tmp_path / "1", signatures=signatures)
    with pytest.raises(ValueError, match="export must be a SavedModel that export_saved_model wrote, with the sign"):
        check("grpc", export=tmp_path / "1")


def test_changed_metadata(check, base, tmp_path, only):
    only("metadata")
    copy = shutil.copytree(base / "faces" / "2", tmp_path / "faces" / "2")
    path = copy / "assets.extra" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alignment": {"method": "none"}}))
    report = check("grpc", export=copy)
    assert report.causes == ("the metadata were changed after the export: alignment",)


def test_a_model_of_other_software(tmp_path):
    """A model with the pixels' signature only."""
    small_models.write(small_models.Projection(1), tmp_path / "faces" / "1", signatures=("serving_default",))
    with ServerDouble(tmp_path) as double:
        report = check_server([double.grpc, double.rest])
    assert {result.check for result in report.failures} == {"signatures"}
    assert "the served model lacks the signatures describe and serve_bytes" in report.causes[0]
