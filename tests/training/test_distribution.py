import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from training import hosts

from keras_arcface.training import ClassParallel
from keras_arcface.training import round_up_classes

pytest.importorskip("jax", reason="keras.distribution requires JAX, which is absent")


def test_another_backend_is_refused():
    if keras.backend.backend() == "jax":
        pytest.skip("the backend is JAX")
    with pytest.raises(
        RuntimeError, match=r"KERAS_BACKEND=jax before importing Keras\. Received: backend='tensorflow'"
    ):
        ClassParallel()


def test_classes_are_rounded_up_to_a_multiple_of_the_shards():
    assert [round_up_classes(count, 4) for count in (1, 4, 85742, 85744)] == [4, 4, 85744, 85744]


@pytest.mark.parametrize(("num_classes", "class_shards", "name"), [(0, 4, "num_classes"), (4, 0, "class_shards")])
def test_numbers_that_cannot_be_rounded_up(num_classes, class_shards, name):
    with pytest.raises(ValueError, match=rf"{name} must be an integer of at least 1. Received: {name}=0"):
        round_up_classes(num_classes, class_shards)


# Runs in a separate process, on four CPU devices of JAX.
LAYOUTS = """
import json
import jax
import keras
from keras_arcface import ArcFace, RecognitionModel
from keras_arcface.training import ClassParallel

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)

def error_of(function, *arguments):
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)

errors = [error_of(ClassParallel, shards) for shards in (3, 0)]
distribution = ClassParallel(2)
keras.distribution.set_distribution(distribution)
errors.append(error_of(ArcFace(11, name="head").build, (None, 4)))
errors.append(error_of(ArcFace(12, sample_rate=0.5, name="sampled").build, (None, 4)))
model = RecognitionModel(keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)], name="embedder"), ArcFace(12))
model.compile("adam")
model.build((None, 3))
model.optimizer.build(model.trainable_variables)
variables = {v.path: v.value for v in [*model.variables, *model.optimizer.variables]}
batch = distribution.get_data_layout((8, 3)).backend_layout
print(json.dumps({
    "errors": errors,
    "shapes": {path: [value.shape, value.addressable_shards[0].data.shape] for path, value in variables.items()},
    "first_class": [shard.index[0].start for shard in model.head.centers.value.addressable_shards],
    "batch": [index[0].indices(8)[:2] for index in batch.addressable_devices_indices_map((8, 3)).values()],
}))
"""


@pytest.fixture(scope="module")
def layouts():
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", LAYOUTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_only_the_centers_and_their_slots_are_sharded(layouts):
    sharded = {path: shapes for path, shapes in layouts["shapes"].items() if shapes[0] != shapes[1]}
    assert sorted(path.split("_")[-1] for path in sharded) == ["face/centers", "momentum", "velocity"]
    assert all(shapes == [[12, 4], [6, 4]] for shapes in sharded.values())
    assert layouts["first_class"] == [0, 6, 0, 6]  # adjacent devices share the classes


def test_every_device_has_a_separate_part_of_the_batch(layouts):
    assert layouts["batch"] == [[0, 2], [2, 4], [4, 6], [6, 8]]


def test_invalid_numbers_of_shards_are_refused(layouts):
    three, none, odd, one_group = layouts["errors"]
    assert three == "class_shards must divide the number of devices, 4. Received: class_shards=3"
    assert none.endswith("Received: class_shards=0")
    assert "must be divisible by class_shards=2" in odd
    assert "num_classes=12" in odd
    assert "Received: head/centers of shape (11, 4)" in odd
    assert "sample_groups must be a multiple of the number of class shards, 2" in one_group
    assert one_group.endswith("Received: sample_groups=1")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hosts") / "faces"
    hosts.write_faces(directory)
    return directory


@pytest.fixture(scope="module")
def one_process(faces):
    return hosts.run(hosts.Setting(convolutional=False), faces)


# The classes are sharded within each host, or over both.
@pytest.mark.slow
@pytest.mark.parametrize("class_shards", [2, 4])
def test_two_hosts_train_like_one_process_and_never_hold_all_centers(one_process, faces, class_shards):
    two_hosts = hosts.run(hosts.Setting(2, 2, class_shards, convolutional=False), faces)
    print(f"largest relative difference: {hosts.largest_difference(one_process['losses'], two_hosts['losses']):.1e}")
    # The network has BatchNorm: equal losses mean statistics of the global batch.
    assert two_hosts["losses"] == pytest.approx(one_process["losses"], rel=1e-5)
    assert one_process["losses"][-1] < 0.8 * one_process["losses"][0]
    assert two_hosts["centers"] == [one_process["centers"][0] / class_shards] * 2
    assert [8192, 32] in map(list, one_process["whole"])  # the search finds centers that are not sharded
    assert not two_hosts["whole"]
    # Devices that share the classes gather embeddings, but neither images nor logits.
    assert max(math.prod(shape) for shape in two_hosts["gathered"]) == 16 * 32 * class_shards // 4


@pytest.mark.slow
def test_two_hosts_train_a_convolutional_network_like_one_process(faces):
    one_process, replicated, sharded = (
        hosts.run(setting, faces)["losses"]
        for setting in (hosts.Setting(), hosts.Setting(2, 2, class_shards=1), hosts.Setting(2, 2, class_shards=4))
    )
    for losses in (replicated, sharded):
        print(f"largest relative difference: {hosts.largest_difference(one_process, losses):.1e}")
        assert losses == pytest.approx(one_process, rel=1e-4)


@pytest.mark.slow
def test_sharded_heads_equal_a_head_on_one_device_with_traffic_independent_of_the_classes():
    # One test, so that only one worker runs the script.
    command = [sys.executable, Path(__file__).with_name("class_parallel.py")]
    done = subprocess.run(
        command, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    heads = json.loads(done.stdout)
    for name, report in heads.items():
        assert max(report["differences"].values()) < 1e-5, name
    expect_equal_traffic({name: report["collectives"] for name, report in heads.items()})


def expect_equal_traffic(collectives):
    by_kind = {}
    for name, found in collectives.items():
        kind, classes = name.rsplit(", ", 1)
        by_kind.setdefault(kind, {})[int(classes.split()[0])] = found
    assert len(by_kind) == len(collectives) / 2
    for kind, (few, many) in ((kind, found.values()) for kind, found in by_kind.items()):
        if "2 shards" in kind:  # devices that hold the same classes sum their gradients
            assert sum(few.values()) > 0
            continue
        if kind == "sampled":  # the indices of the sampled classes, here a quarter, are sent too
            assert [found.pop(f"all-gather s32[{n}]") for n, found in ((1024, few), (4096, many))] == [4096, 16384]
        assert few == many, kind
        # The embeddings of the batch, 64 of 32 floats, or their gradient; and two floats per example.
        assert max(few.values()) <= 64 * 32 * 4 + 2 * 64 * 4, kind
