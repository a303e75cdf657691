"""The canary of docs/kubernetes.md: its commands, with two test doubles of the server as pods."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import small_models
from conftest import encode
from conftest import make_face
from kubernetes_manifests import MANIFESTS
from kubernetes_manifests import PAGE
from kubernetes_manifests import commands
from kubernetes_manifests import container_of
from kubernetes_manifests import render
from server_double import ServerDouble

from keras_arcface import data
from keras_arcface.cli.main import main
from keras_arcface.serving import FaceClient
from keras_arcface.serving.client.errors import LabelNotFound

FACES = np.stack([make_face(person, 0, small_models.SIZE) for person in range(2)])
PODS = ("faces-a", "faces-b")

# `kubectl get pods` and `kubectl get --raw`, the only calls of wait_for_version.sh.
KUBECTL = f"""#!{sys.executable}
import json, os, sys, urllib.request
pods = json.loads(os.environ["PODS"])
if sys.argv[2] == "pods":
    print(*pods)
else:
    prefix, path = sys.argv[3].split(":8501/proxy/")
    assert prefix.startswith("/api/v1/namespaces/default/pods/")
    try:
        print(urllib.request.urlopen(pods[prefix.rpartition("/")[2]] + "/" + path, timeout=10).read().decode())
    except urllib.error.HTTPError as error:
        sys.exit(str(error))
"""


class Cluster:
    """Two pods, the volume of the models, and the commands of the page.

    Args:
        folder: folder with `mnt/models` and `kubernetes`.
        exported: folder of `exported`.
    """

    def __init__(self, folder, exported):
        self.folder = folder
        self.exported = exported
        self.pods = {}
        (folder / "bin").mkdir()
        (folder / "bin" / "kubectl").write_text(KUBECTL)
        (folder / "bin" / "kubectl").chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for pod in self.pods.values():
            pod.stop()

    def apply(self, pods=PODS):
        """Mounts the ConfigMap as a kubelet does: files are links through `..data`, which is replaced atomically."""
        config_map = render(self.folder / "kubernetes")["ConfigMap"]["data"]
        for pod in pods:
            volume = self.folder / pod
            number = len(list(volume.glob("..v*")))
            content = volume / f"..v{number}"
            content.mkdir(parents=True)
            for name, text in config_map.items():
                (content / name).write_text(text)
                if not number:
                    (volume / name).symlink_to(Path("..data", name))
            (volume / "..next").symlink_to(content.name)
            (volume / "..next").replace(volume / "..data")
        return pods

    def start(self):
        for pod in self.apply():
            self.start_pod(pod)

    def start_pod(self, pod):
        path = self.folder / pod / "models.docker.config"
        self.pods[pod] = ServerDouble(self.folder / "mnt" / "models", poll_seconds=0.05, config=path)

    def execute(self, words):
        """Executes a command of the page."""
        if words[0] == "keras-arcface":
            pod = self.pods.get(PODS[0])
            extra = {"publish": ["--no-check"]} if "--rollback" not in words else {}
            assert main([self._replace(word, pod) for word in words[1:]] + extra.get(words[1], [])) == 0, words
        elif words[:2] == ["kubectl", "apply"]:
            assert words[2:] == ["--kustomize", "kubernetes"]
            self.apply()
        elif words[0] == "sh":
            self.wait(*words[1:])
        else:
            assert words == ["kubectl", "port-forward", "service/faces", "8500", "8501"]

    def wait(self, *words):
        """Runs wait_for_version.sh, which needs a pod that answers."""
        return subprocess.run(["sh", *words], cwd=self.folder, env=self.environment(), check=True, timeout=60)

    def environment(self):
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "PODS": json.dumps({name: pod.rest for name, pod in self.pods.items()})}

    def _replace(self, word, pod):
        if word.startswith("exported/") or word == "lfw.bin":
            return str(self.exported / Path(word).with_suffix(".npz" if word == "lfw.bin" else "").name)
        word = word.replace("/mnt/models", str(self.folder / "mnt" / "models"))
        if pod is not None:
            word = word.replace("grpc://localhost:8500", pod.grpc).replace("http://localhost:8501", pod.rest)
        return word

    def answers(self, label):
        """Returns the versions that answer requests with a label, over both protocols of all pods."""
        versions = set()
        for pod in self.pods.values():
            for address in (pod.grpc, pod.rest):
                with FaceClient(address, label=label) as client:
                    try:
                        faces = client.embed(FACES)
                    except LabelNotFound:
                        continue
                expected, _ = small_models.Projection(faces.version).reference(FACES)
                np.testing.assert_allclose(faces.embedding, expected, atol=1e-6)
                versions.add(faces.version)
        return versions

    def states(self):
        """Returns the states of the versions, or nothing if the pods differ."""
        found = []
        for pod in self.pods.values():
            with FaceClient(pod.grpc) as client:
                found.append(client.status())
        return found[0] if all(states == found[0] for states in found) else {}

    def wait_until(self, condition):
        """Waits until the states of the versions satisfy a condition."""
        deadline = time.monotonic() + 20
        while not condition(self.states()):
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.05)

    def readiness(self):
        """Returns the HTTP statuses of the readiness probe."""
        path = container_of(render(self.folder / "kubernetes"))["readinessProbe"]["httpGet"]["path"]
        return {requests.get(pod.rest + path, timeout=10).status_code for pod in self.pods.values()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns a folder with two exports, and pairs of faces."""
    exported = tmp_path_factory.mktemp("exported")
    small_models.write(small_models.Projection(1), exported / "faces")
    small_models.write(small_models.Projection(2), exported / "new")
    faces = [encode(make_face(person, image, small_models.SIZE)) for person in range(20) for image in range(2)]
    data.PairSet(faces[:20] + faces[20::2] + faces[21::2], [True] * 10 + [False] * 10).save(exported / "lfw.npz")
    return exported


@pytest.fixture
def cluster(exported, tmp_path, monkeypatch):
    """Returns a cluster after the commands of "Starting": version 1 is published and served as `stable`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    (tmp_path / "mnt" / "models").mkdir(parents=True)
    pairs = [encode(make_face(person, image, small_models.SIZE)) for person in range(20) for image in range(2)]
    data.PairSet(pairs[:20] + pairs[20::2] + pairs[21::2], [True] * 10 + [False] * 10).save(tmp_path / "lfw.npz")
    starting = commands("## Starting", "## Probes")
    assert starting[0] == ["cp", "-r", "examples/kubernetes", "kubernetes"]
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    assert starting[1] == ["kubectl", "apply", "--filename", "kubernetes/volume.yaml"]
    with Cluster(tmp_path, exported) as cluster:
        publish, configure, apply, wait = starting[2:]
        cluster.execute(publish)
        cluster.execute(configure)
        assert apply == ["kubectl", "apply", "--kustomize", "kubernetes"]
        cluster.start()
        cluster.execute(wait)
        yield cluster


def step(number):
    ends = {5: "**6.", 6: "- **Never"}
    return commands(f"**{number}.", ends.get(number, f"**{number + 1}."))


@pytest.mark.slow
def test_the_canary_is_promoted_and_version_1_is_unloaded(cluster):
    assert cluster.answers("stable") == {1}
    seen = []
    for number in (1, 2, 3, 4, 6):
        for words in step(number):
            cluster.execute(words)
        if number == 6:
            cluster.wait_until(lambda states: states.get(1) == "END")
        seen.append((number, cluster.answers("stable"), cluster.answers("canary"), cluster.states()))
        assert cluster.readiness() == {200}
    for line in seen:
        print(*line)
    assert seen == [
        (1, {1}, set(), {1: "AVAILABLE"}),
        (2, {1}, set(), {1: "AVAILABLE", 2: "AVAILABLE"}),
        (3, {1}, {2}, {1: "AVAILABLE", 2: "AVAILABLE"}),
        (4, {2}, {2}, {1: "AVAILABLE", 2: "AVAILABLE"}),
        (6, {2}, set(), {1: "END", 2: "AVAILABLE"}),
    ]


def test_a_promotion_is_rolled_back(cluster):
    for number in (2, 3, 4):
        if number == 2:
            cluster.execute(step(1)[0])  # publish
        for words in step(number):
            if words[1] != "serve-check":
                cluster.execute(words)
    assert cluster.answers("stable") == {2}
    for words in step(5):
        cluster.execute(words)
    cluster.wait_until(lambda states: states.get(2) == "END")
    assert (cluster.answers("stable"), cluster.answers("canary")) == ({1}, set())
    assert cluster.readiness() == {200}
    assert sorted(path.name for path in Path("mnt/models/faces").iterdir() if path.is_dir()) == [".withdrawn-2", "1"]


def test_a_label_that_moves_to_an_unloaded_version_blocks_the_configuration(cluster):
    """What the page warns of: the configuration of step 4 without those of steps 2 and 3."""
    cluster.execute(step(1)[0])
    configure, apply, _ = step(4)
    cluster.execute(configure)
    cluster.execute(apply)
    for pod in cluster.pods.values():
        pod.poll()
        pod.poll()
        message = "Request to assign label to version 2 of model faces, which is not currently available for inference"
        assert pod.config_error == message
        assert message.replace("version 2", "version 1") in " ".join(PAGE.split())
    assert (cluster.answers("stable"), cluster.states()) == ({1}, {1: "AVAILABLE"})
    cluster.pods[PODS[1]].stop()
    cluster.start_pod(PODS[1])  # a pod that starts has no label, so it accepts the configuration
    assert cluster.answers("stable") == {1, 2}
    for number in (2, 3, 4):
        for words in step(number)[:3]:
            cluster.execute(words)
    assert cluster.answers("stable") == {2}


def test_a_pod_is_ready_while_the_stable_version_can_answer(cluster):
    assert cluster.readiness() == {200}
    for words in (step(1)[0], *step(2)):
        cluster.execute(words)
    path = container_of(render())["livenessProbe"]["httpGet"]["path"]
    for broken, ready in ((2, 200), (1, 404)):
        Path(f"mnt/models/faces/{broken}/saved_model.pb").rename("saved_model.pb")
        cluster.pods[PODS[1]].stop()
        cluster.start_pod(PODS[1])
        assert requests.get(cluster.pods[PODS[1]].rest + path, timeout=10).status_code == 200
        assert cluster.readiness() == {200, ready}
        Path("saved_model.pb").rename(f"mnt/models/faces/{broken}/saved_model.pb")


def test_the_script_waits_for_all_pods(cluster):
    cluster.execute(step(1)[0])
    configure, _, wait = step(2)
    cluster.execute(configure)
    cluster.apply(PODS[:1])
    with subprocess.Popen(wait, stdout=subprocess.PIPE, text=True, env=cluster.environment()) as process:
        assert process.stdout.readline() == "faces-a serves version 2\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        cluster.apply(PODS[1:])
        assert process.stdout.read() == "faces-b serves version 2\n"
        assert process.wait(30) == 0


def test_the_script_fails_without_pods(tmp_path):
    cluster = Cluster(tmp_path, None)
    command = ["sh", MANIFESTS / "wait_for_version.sh", "1"]
    done = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "no pod is running in the namespace default\n")
