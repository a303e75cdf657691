"""The manifests of examples/kubernetes: valid, consistent, and with the files and flags of `server-config`."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from kubernetes_manifests import MANIFESTS
from kubernetes_manifests import PAGE
from kubernetes_manifests import commands
from kubernetes_manifests import container_of
from kubernetes_manifests import render
from server_protos import flags_of
from server_protos import parse
from server_protos import parse_models

from keras_arcface.cli.main import build_parser
from keras_arcface.cli.server_config import parse_models as served_models
from keras_arcface.serving import Batching
from keras_arcface.serving import write_configuration
from keras_arcface.serving.deploy.configuration import METRICS_PATH

VOLUME = yaml.safe_load((MANIFESTS / "volume.yaml").read_text())


@pytest.fixture(scope="module")
def objects():
    return render()


@pytest.fixture(scope="module")
def pod(objects):
    return objects["Deployment"]["spec"]["template"]


@pytest.fixture(scope="module")
def container(objects):
    return container_of(objects)


@pytest.mark.parametrize("version", ["1.25", None], ids=["1.25", "newest"])
def test_the_manifests_are_valid(version, objects):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="requires kubernetes-validate")
    version = version or kubernetes_validate.latest_version()
    for each in (*objects.values(), VOLUME):
        kubernetes_validate.validate(each, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate({**objects["Deployment"], "replica": 2}, version, strict=True)


def test_kubectl_renders_the_same_objects(objects):
    if shutil.which("kubectl") is None:
        pytest.skip("requires kubectl")
    done = subprocess.run(["kubectl", "kustomize", MANIFESTS], capture_output=True, text=True, check=True)
    assert {each["kind"]: each for each in yaml.safe_load_all(done.stdout)} == objects


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns what the first `server-config` of the page writes."""
    (command,) = (words for words in commands("## Starting", "## Probes") if words[1] == "server-config")
    arguments = build_parser().parse(command[1:])
    (sizes,) = arguments.batch_sizes
    return write_configuration(
        tmp_path_factory.mktemp("config"),
        served_models(arguments),
        batching=Batching.for_device(arguments.device, arguments.cores, sizes),
    )


def test_the_files_are_those_of_server_config(objects, written):
    data = objects["ConfigMap"]["data"]
    assert set(data) == {"models.docker.config", "batching.config", "monitoring.config"}
    files = {path.name: path.read_text() for path in written.files}
    assert {name: files[name] for name in data} == data


def test_the_flags_are_those_of_server_config(container, written):
    docker = flags_of(written.docker[written.docker.index("tensorflow/serving:latest") + 1 :])
    extra = {"grpc_channel_arguments": "grpc.max_connection_age_ms=60000"}
    assert flags_of(container["args"]) == docker | extra
    assert "command" not in container  # the script of the image sets the ports
    published = [argument.rpartition(":")[2] for argument in written.docker if argument.startswith("--publish=")]
    assert [str(port["containerPort"]) for port in container["ports"]] == published


def test_the_threads_are_the_cpu_request(container, objects):
    batching = parse("BatchingParameters", objects["ConfigMap"]["data"]["batching.config"])
    assert container["resources"]["requests"]["cpu"] == str(batching.num_batch_threads.value)
    assert container["resources"]["limits"] == {"memory": container["resources"]["requests"]["memory"]}


def test_the_flags_name_mounted_files(container, pod, objects):
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in map(dict, pod["spec"]["volumes"])}
    assert set(mounts) == set(volumes)
    assert volumes["config"] == {"configMap": {"name": objects["ConfigMap"]["metadata"]["name"]}}
    claim = {"claimName": VOLUME["metadata"]["name"], "readOnly": True}
    assert volumes["models"] == {"persistentVolumeClaim": claim}
    assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {"tmp"}
    assert not any("subPath" in mount for mount in mounts.values())
    files = {Path(value) for name, value in flags_of(container["args"]).items() if name.endswith("_file")}
    assert files == {Path(mounts["config"]["mountPath"], name) for name in objects["ConfigMap"]["data"]}
    (model,) = parse_models(MANIFESTS / "config" / "models.docker.config").values()
    assert Path(model.base_path).parent == Path(mounts["models"]["mountPath"])
    assert f"/models/{Path(model.base_path).name}" in PAGE


def test_every_selector_finds_the_pods(pod, objects):
    labels = pod["metadata"]["labels"]
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert objects["Service"]["spec"]["selector"] == labels
    for holder in (objects["Deployment"]["spec"], objects["PodDisruptionBudget"]["spec"], spread):
        assert (holder.get("selector") or holder["labelSelector"]) == {"matchLabels": labels}
    assert f'--selector "{next(iter(labels))}=' in (MANIFESTS / "wait_for_version.sh").read_text()


def test_the_autoscaler_sets_the_number_of_pods(objects):
    deployment, autoscaler = objects["Deployment"], objects["HorizontalPodAutoscaler"]["spec"]
    target = {"apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": deployment["metadata"]["name"]}
    assert autoscaler["scaleTargetRef"] == target
    assert "replicas" not in deployment["spec"]
    assert autoscaler["minReplicas"] > objects["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_ports_have_the_same_names_and_numbers(container, objects):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"]: port["port"] for port in objects["Service"]["spec"]["ports"]} == ports
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports


def test_prometheus_finds_the_metrics(pod, container, objects):
    monitoring = parse("MonitoringConfig", objects["ConfigMap"]["data"]["monitoring.config"]).prometheus_config
    assert monitoring.enable
    port = next(str(port["containerPort"]) for port in container["ports"] if port["name"] == "http")
    expected = {"prometheus.io/scrape": "true", "prometheus.io/port": port, "prometheus.io/path": monitoring.path}
    assert pod["metadata"]["annotations"] == expected
    assert monitoring.path == METRICS_PATH
    assert f"the port `http` and the path `{METRICS_PATH}`" in PAGE


def test_times_are_longer_than_the_longest_request(pod, container):
    longest = int(flags_of(container["args"])["rest_api_timeout_in_ms"]) / 1000
    assert pod["spec"]["terminationGracePeriodSeconds"] > longest
    liveness, startup = container["livenessProbe"], container["startupProbe"]
    assert liveness["periodSeconds"] * (liveness["failureThreshold"] - 1) > longest
    assert startup["periodSeconds"] * startup["failureThreshold"] == 300


def test_the_pod_is_restricted(pod, container):
    """The fields that the Pod Security Standard "restricted" requires, and a read-only root file system."""
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["automountServiceAccountToken"] is False
    allowed = {"configMap", "persistentVolumeClaim", "emptyDir"}
    assert {kind for volume in pod["spec"]["volumes"] for kind in volume if kind != "name"} <= allowed


def test_deleting_the_kustomization_keeps_the_models(objects):
    assert VOLUME["kind"] not in objects


def test_the_page_names_every_file():
    names = {path.name for path in MANIFESTS.iterdir() if path.is_file()}
    assert names == {name for name in names if f"`{name}`" in PAGE}
