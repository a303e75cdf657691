"""The planner against sums done by hand."""

import re
import subprocess
import sys

import pytest

from keras_arcface import plan

WEIGHTS = 1_000_000 * 512 * 4


def by_name(**task):
    task = plan.Task(**{"classes": 1_000_000, "batch": 1024, **task})
    return {re.sub(r" \(.*?\)", "", found.name): found for found in plan.plans(task)}


def test_one_device():
    found = by_name()
    assert list(found) == ["usual", "blocks", "sampled"]
    blocks = found["blocks"]
    assert (blocks.weights, blocks.gradient, blocks.slots, blocks.wires) == (WEIGHTS, WEIGHTS, WEIGHTS, 0)
    assert blocks.activations < 2**30 < found["usual"].activations
    assert blocks.memory == 3 * WEIGHTS + blocks.activations
    sampled = found["sampled"]
    assert sampled.weights == sampled.slots == 1.1 * WEIGHTS
    assert sampled.gradient == 0.1 * WEIGHTS


def test_adam_and_tensorflows_own_update_need_more():
    blocks = by_name(slots=2, update="tensorflow")["blocks"]
    assert blocks.slots == 2 * WEIGHTS
    assert blocks.memory == 4 * WEIGHTS + 2 * WEIGHTS


def test_sub_centers_are_centers():
    assert by_name(sub_centers=3)["blocks"].weights == 3 * WEIGHTS


def test_logits_are_kept_where_they_fit():
    few, many = (by_name(classes=classes, batch=256)["blocks"] for classes in (2**18, 2**18 + 1))
    assert few.activations - many.activations == pytest.approx(2**28, rel=1e-3)


def test_devices_share_classes_or_the_batch():
    found = by_name(devices=8)
    apart, shared = found["blocks"], found["class parallel"]
    assert (apart.weights, shared.weights) == (WEIGHTS, WEIGHTS / 8)
    assert apart.wires == 2 * 7 / 8 * WEIGHTS  # the gradient, summed in a ring
    met = 2 * 7 / 8 * 1024 * 512 * 4  # every embedding to all others, and its gradient back
    assert met < shared.wires < 1.02 * met
    assert found["sampled"].wires == pytest.approx(0.1 * apart.wires)
    both = found["sampled, class parallel"]
    assert both.weights == both.slots == 1.1 * WEIGHTS / 8
    assert 0 < both.wires - shared.wires < 100_000 * 4  # which classes were drawn


# arcface_torch, docs/speed_benchmark.md: MiB of each of eight V100 GPUs with 128 images, by number of classes.
PUBLISHED = {
    "usual": {125_000: 7358, 250_000: 9940, 500_000: 14220, 1_000_000: 23708, 1_400_000: 32252},
    "usual, class parallel": {125_000: 5306, 500_000: 7114, 1_000_000: 9966, 2_000_000: 13978, 5_500_000: 32188},
    "usual, sampled, class parallel": {125_000: 4868, 1_000_000: 5620, 2_000_000: 6472, 29_000_000: 32324},
}


def test_the_published_memory_of_arcface_torch():
    """Of which the network takes its part, the same in all rows: what there is more than in the first is planned."""
    for name, rows in PUBLISHED.items():
        first = min(rows)
        for classes, mebibytes in rows.items():
            head, head_of_first = (by_name(classes=n, devices=8)[name].memory / 2**20 for n in (classes, first))
            planned = rows[first] + head - head_of_first
            in_blocks = by_name(classes=classes, devices=8)[name.removeprefix("usual, ").replace("usual", "blocks")]
            ours = rows[first] - head_of_first + in_blocks.memory / 2**20
            ratio = planned / mebibytes
            print(f"{name}, {classes:,}: published {mebibytes}, planned {planned:.0f} ({ratio:.2f}), ours {ours:.0f}")
            assert planned == pytest.approx(mebibytes, rel=0.1)


def test_the_cheapest_that_fits():
    found = list(by_name(devices=8).values())
    assert plan.cheapest(found, 100 * 2**30).name == "sampled (0.1), class parallel"
    exact = [plan for plan in found if "sampled" not in plan.name]
    assert plan.cheapest(exact, 100 * 2**30).name == "class parallel"
    assert plan.cheapest([plan for plan in exact if "class" not in plan.name], 100 * 2**30).name == "blocks"
    assert plan.cheapest(found, 2**20) is None


@pytest.mark.parametrize(
    ("task", "named"),
    [({"classes": 0}, "classes=0"), ({"sample_rate": 2.0}, r"sample_rate=2\.0"), ({"update": "jax"}, "update='jax'")],
)
def test_numbers_out_of_range_are_named(task, named):
    with pytest.raises(ValueError, match=named):
        by_name(**task)


def test_the_command_line_says_what_fits():
    command = [sys.executable, "-m", "keras_arcface.plan", "--classes", "10e6", "--batch", "1024", "--devices", "8"]
    done = subprocess.run([*command, "--gpu-memory", "32G"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {re.split(r"  +", line)[0]: line for line in done.stdout.splitlines()}
    assert "does not fit" in rows["usual"]
    assert "does not fit" in rows["blocks"]
    assert "does not fit" not in rows["class parallel"]
    assert "Cheapest that fits: sampled (0.1), class parallel" in done.stdout
    done = subprocess.run([*command, "--sample-rate", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "sample_rate must be in (0, 1]" in done.stderr
