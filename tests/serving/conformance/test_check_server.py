"""`check_server` with a healthy model, and with faults planted in exported models."""

import dataclasses
import json
import shutil

import exported_models
import pytest

from keras_arcface.serving import check_server
from keras_arcface.serving.client.errors import ServingError
from keras_arcface.serving.conformance.checks import CHECKS
from keras_arcface.serving.conformance.checks import PROTOCOL_CHECKS


def results_of(report, check):
    return [result for result in report.results if result.check == check]


def failures_of(report):
    return [(result.check, result.protocol, result.received, result.cause) for result in report.failures]


def test_a_healthy_model_passes_every_check(check):
    report = check()
    assert report.passed, failures_of(report)
    assert report.version == 2
    assert {result.result for result in report.results} == {"passed", "info"}
    names = ["connection", *(each.name for each in CHECKS), *(each.name for each in PROTOCOL_CHECKS)]
    assert list(dict.fromkeys(result.check for result in report.results)) == names
    assert {result.protocol for result in report.results} == {"grpc", "rest", "both"}
    for name in ("answers of the export", "encoded images of the export", "the same embeddings", "the same cosines"):
        assert {result.received for result in results_of(report, name)} == {"equal bit for bit"}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_without_an_export_and_by_one_protocol(protocol, check):
    report = check(protocol, export=None)
    assert report.passed, failures_of(report)
    skipped = {result.check for result in report.results if result.result == "skipped"}
    assert skipped == {each.name for each in CHECKS if each.needs_export}
    assert {result.protocol for result in report.results} == {protocol}


def test_a_label_and_a_version(check, only):
    only("version", "version of the export", "unknown label")
    for options in ({"label": "stable"}, {"version": 2}):
        report = check(**options)
        assert report.passed, failures_of(report)
    assert results_of(check("rest", version=2, export=None), "version")[0].expected == "version 2, as requested"


def test_a_base_path_is_its_newest_version(check, base, only):
    only("version of the export", "answers of the export")
    report = check("grpc", export=base / "faces")
    assert report.export.endswith("2")
    assert report.passed


# Faults in exported models


def test_swapped_colors_are_named(served, network, base, only):
    only("answers of the export", "encoded images of the export", "warm-up requests")
    with served(lambda path: exported_models.export_model(exported_models.swap_colors(network), path)) as double:
        report = check_server([double.grpc, double.rest], export=base / "faces")
    expected = "the server's answer equals the export's for BGR images: the color order is swapped"
    for name in ("answers of the export", "encoded images of the export", "warm-up requests"):
        assert {(result.result, result.cause) for result in results_of(report, name)} == {("failed", expected)}


def test_a_missing_signature_is_named(served, network, base, only):
    only("signatures", "compare", "answers of the export")
    with served(lambda path: exported_models.export_model(network, path, compare=False)) as double:
        report = check_server([double.grpc, double.rest], export=base / "faces")
    for result in results_of(report, "signatures"):
        assert result.result == "failed"
        assert result.received.startswith("no compare; the model has describe, serve_bytes, serving_default")
        assert "lacks the signature compare: it was exported without compare=True" in result.cause
    assert {result.result for result in results_of(report, "compare")} == {"skipped"}
    assert {result.result for result in results_of(report, "answers of the export")} == {"passed"}


@pytest.mark.parametrize("with_export", [True, False])
def test_an_unnormalized_embedding_is_named(with_export, served, network, base, only, monkeypatch):
    only("length of embeddings", "answers of the export")

    def write(path):
        exported_models.export_without_normalization(network, path, monkeypatch)

    with served(write) as double:
        report = check_server([double.grpc, double.rest], export=base / "faces" if with_export else None)
    expected = "the embedding is not L2-normalized: its length equals the output `norm`"
    names = ("length of embeddings", *(("answers of the export",) if with_export else ()))
    for name in names:
        assert {(result.result, result.cause) for result in results_of(report, name)} == {("failed", expected)}


def test_pixels_that_are_normalized_twice_are_named(served, network, base, only):
    only("answers of the export")
    with served(lambda path: exported_models.export_model(exported_models.normalize_twice(network), path)) as double:
        report = check_server(double.grpc, export=base / "faces")
    (result,) = results_of(report, "answers of the export")
    assert result.cause.startswith("the pixels are normalized twice")


def test_a_wrong_input_size_is_named(served, base):
    network = exported_models.make_network(size=(48, 40))
    with served(lambda path: exported_models.export_model(network, path)) as double:
        report = check_server(double.grpc, export=base / "faces")
    (result,) = results_of(report, "inputs and outputs")
    assert result.cause == (
        "wrong input size: the served model takes images of 48 x 40 pixels, the export says 32 x 32"
    )
    assert results_of(report, "warm-up requests")[0].result == "skipped"
    assert results_of(report, "batch sizes")[0].result == "passed"


def test_an_old_version_that_is_still_served_is_named(served, base, tmp_path, only):
    """The new version of the base path does not load, so that the server continues with the old one."""
    only("version of the export", "loading of versions", "answers of the export")
    old, new = tmp_path / "faces" / "2", tmp_path / "faces" / "3"
    exported_models.export_model(exported_models.make_network(seed=2), new)
    with served(lambda path: shutil.copytree(base / "faces" / "2", path)) as double:
        double._versions.states[3] = (double._versions.states[3][0], "")
        servable = double.find(3)
        double._versions._loaded = {2: type(servable)(old, 2)}
        message = "Op type not registered 'DecodeImage' in binary running on host"
        double._versions._failed.add(3)
        double._versions.states |= {2: (30, ""), 3: (50, message)}
        report = check_server([double.grpc, double.rest], export=tmp_path / "faces")
    for result in results_of(report, "version of the export"):
        assert result.received == "version 2"
        assert result.cause.startswith("an old version is still served instead of version 3, which failed to load: Op")
        assert "built without the op DecodeImage" in result.cause
    for result in results_of(report, "loading of versions"):
        assert "built without the op DecodeImage" in result.cause
    for result in results_of(report, "answers of the export"):
        assert result.cause.startswith("an old version is still served: its metadata is that of version 2 in ")


# Reports


def test_the_report_as_text_and_as_json(check, plant, only):
    only("first request", "answers of the export")
    report = check("grpc")
    lines = report.table(100).splitlines()
    assert lines[0].split() == ["check", "protocol", "result", "expected", "received"]
    assert max(map(len, lines)) <= 100
    assert max(len(line) for line in report.table(10).splitlines()) > 10
    assert str(report) == report.table()
    content = json.loads(json.dumps(report.to_dict()))
    assert content["passed"] is True
    assert content["checks"][0] == dataclasses.asdict(report.results[0])
    assert content["summary"] == report.summary() == f"{len(report.results) - 1} passed, 0 failed, 1 info"
    plant(lambda run, name, inputs: {n: value * 2 if n == "norm" else value for n, value in run(name, inputs).items()})
    report = check("grpc")
    assert not report.passed
    assert report.causes == ("the embeddings equal the export's, but the output `norm` is 2 times the export's",)
    assert report.table(200).endswith(f"\n\n[1] {report.causes[0]}")
    assert report.table().count("failed [1]") == len(report.failures)
    assert [line.split()[:4] for line in check().table().splitlines()][2] == ["connection", "grpc,", "rest", "passed"]


def test_wrong_arguments_are_refused(double, tmp_path):
    for addresses in ([], [double.grpc] * 2, [double.grpc, double.rest, double.grpc], "faces.internal:8500"):
        with pytest.raises(ValueError, match="address"):
            check_server(addresses)
    with pytest.raises(ValueError, match="version and label cannot be combined"):
        check_server(double.grpc, version=1, label="stable")
    with pytest.raises(ValueError, match="tolerance must be in"):
        check_server(double.grpc, tolerance=-1)
    with pytest.raises(FileNotFoundError, match="export must be a SavedModel"):
        check_server(double.grpc, export=tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(ValueError, match="must be a SavedModel that this TensorFlow loads"):
        check_server(double.grpc, export=tmp_path)


def test_a_progress_bar_is_shown_on_request(check, only, capfd):
    only("version")
    check("rest", export=None)
    assert "checking" not in capfd.readouterr().err
    check("rest", export=None, progress=True)
    assert "checking" in capfd.readouterr().err


def test_serving_errors_are_results():
    report = check_server("http://localhost:1", retries=0, timeout=5)
    assert not report.passed
    assert report.version is None
    assert not isinstance(report, ServingError)
    assert [result.check for result in report.results] == ["connection", "all other checks"]
