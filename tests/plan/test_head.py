"""Estimates of memory, communication and time, against sums done by hand and published figures."""

import re

import pytest

from keras_arcface import plan

WEIGHTS = 1_000_000 * 512 * 4


def by_name(**setup):
    setup = plan.Setup(**{"classes": 1_000_000, "batch": 1024, **setup})
    return {re.sub(r" \(.*?\)", "", found.name): found for found in plan.estimate(setup)}


def test_one_device():
    found = by_name()
    assert list(found) == ["full logits", "chunked", "chunked, sampled"]
    chunked = found["chunked"]
    assert (chunked.weights, chunked.gradient, chunked.slots, chunked.sent) == (WEIGHTS, WEIGHTS, WEIGHTS, 0)
    assert chunked.activations < 2**30 < found["full logits"].activations
    assert chunked.memory == 3 * WEIGHTS + chunked.activations
    sampled = found["chunked, sampled"]
    assert sampled.weights == sampled.slots == 1.1 * WEIGHTS
    assert sampled.gradient == 0.1 * WEIGHTS


def test_adam_and_the_update_by_tensorflow_need_more():
    chunked = by_name(slots=2, update="tensorflow")["chunked"]
    assert chunked.slots == 2 * WEIGHTS
    assert chunked.memory == 4 * WEIGHTS + 2 * WEIGHTS


def test_sub_centers_count_as_centers():
    assert by_name(sub_centers=3)["chunked"].weights == 3 * WEIGHTS


def test_cosines_are_cached_if_they_fit():
    few, many = (by_name(classes=classes, batch=256)["chunked"] for classes in (2**18, 2**18 + 1))
    assert few.activations - many.activations == pytest.approx(2**28, rel=1e-3)


def test_devices_split_the_classes_or_the_batch():
    found = by_name(devices=8)
    data_parallel, class_parallel = found["chunked"], found["chunked, class parallel"]
    assert (data_parallel.weights, class_parallel.weights) == (WEIGHTS, WEIGHTS / 8)
    assert data_parallel.sent == 2 * 7 / 8 * WEIGHTS  # the gradient, summed in a ring
    embeddings = 2 * 7 / 8 * 1024 * 512 * 4  # each embedding to all other devices, and its gradient back
    assert embeddings < class_parallel.sent < 1.02 * embeddings
    assert found["chunked, sampled"].sent == pytest.approx(0.1 * data_parallel.sent)
    both = found["chunked, sampled, class parallel"]
    assert both.weights == both.slots == 1.1 * WEIGHTS / 8
    assert 0 < both.sent - class_parallel.sent < 100_000 * 4  # the numbers of the sampled classes


# arcface_torch, docs/speed_benchmark.md: MiB of each of eight V100 GPUs with 128 images, by number of classes.
PUBLISHED = {
    "full logits": {125_000: 7358, 250_000: 9940, 500_000: 14220, 1_000_000: 23708, 1_400_000: 32252},
    "full logits, class parallel": {125_000: 5306, 500_000: 7114, 1_000_000: 9966, 2_000_000: 13978, 5_500_000: 32188},
    "full logits, sampled, class parallel": {125_000: 4868, 1_000_000: 5620, 2_000_000: 6472, 29_000_000: 32324},
}


def test_published_memory_of_arcface_torch():
    """Compares differences from the first row, as the network needs the same memory in all rows."""
    for name, rows in PUBLISHED.items():
        first = min(rows)
        for classes, mebibytes in rows.items():
            head, head_of_first = (by_name(classes=n, devices=8)[name].memory / 2**20 for n in (classes, first))
            planned = rows[first] + head - head_of_first
            chunked = by_name(classes=classes, devices=8)[name.replace("full logits", "chunked")]
            ours = rows[first] - head_of_first + chunked.memory / 2**20
            ratio = planned / mebibytes
            print(f"{name}, {classes:,}: published {mebibytes}, planned {planned:.0f} ({ratio:.2f}), ours {ours:.0f}")
            assert planned == pytest.approx(mebibytes, rel=0.1)


def test_fastest_that_fits():
    estimates = list(by_name(devices=8).values())
    assert plan.fastest(estimates, 100 * 2**30).name == "chunked, sampled (0.1), class parallel"
    exact = [found for found in estimates if "sampled" not in found.name]
    assert plan.fastest(exact, 100 * 2**30).name == "chunked, class parallel"
    assert plan.fastest([found for found in exact if "class" not in found.name], 100 * 2**30).name == "chunked"
    assert plan.fastest(estimates, 2**20) is None


@pytest.mark.parametrize(
    ("setup", "named"),
    [
        ({"classes": 0}, "classes=0"),
        ({"sample_rate": 2.0}, r"sample_rate=2\.0"),
        ({"update": "jax"}, "update='jax'"),
        ({"slots": -1}, "slots=-1"),
        ({"max_cache_bytes": -1}, "max_cache_bytes=-1"),
        *(({name: 0}, f"{name}=0") for name in ("chunk_bytes", "chunk_classes", "memory_bandwidth", "link_bandwidth")),
        ({"tflops": float("nan")}, "tflops=nan"),
    ],
)
def test_numbers_out_of_range_are_named(setup, named):
    with pytest.raises(ValueError, match=named):
        by_name(**setup)
