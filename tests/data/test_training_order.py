import collections
import itertools
import types

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_arcface.data import reader
from keras_arcface.data import training_order

SEEDS = st.integers(-(2**63), 2**64)
FILES = [[f"{file}-{record}" for record in range(length)] for file, length in enumerate((7, 1, 30, 0, 12, 5, 45))]


def one_epoch(epoch, seed=3, shuffle_buffer=20, files=FILES):
    return list(training_order.shuffled_epoch(files, lambda file: file, seed, epoch, shuffle_buffer))


# Up to 40 files, more than the 16 that are interleaved.
@given(st.lists(st.integers(0, 20), max_size=40), SEEDS, st.integers(0, 10**6), st.integers(1, 300))
def test_an_epoch_contains_every_record_once(lengths, seed, epoch, shuffle_buffer):
    files = [[(file, record) for record in range(length)] for file, length in enumerate(lengths)]
    records = one_epoch(epoch, seed, shuffle_buffer, files)
    assert sorted(records) == [record for file in files for record in file]
    assert one_epoch(epoch, seed, shuffle_buffer, files) == records


def test_the_order_depends_on_seed_and_epoch():
    assert one_epoch(4) == one_epoch(4)
    assert one_epoch(4) != one_epoch(5)
    assert one_epoch(4) != one_epoch(4, seed=4)


def test_files_are_interleaved():
    given = one_epoch(0, shuffle_buffer=1)
    assert {record.split("-")[0] for record in given[:6]} == {"0", "1", "2", "4", "5", "6"}


def test_records_are_drawn_from_the_buffer():
    given = [int(record) for record in one_epoch(0, files=[[str(i) for i in range(1000)]], shuffle_buffer=100)]
    assert sorted(given) == list(range(1000))
    moved = np.array(given) - np.arange(1000)
    assert moved.max() <= 100
    assert np.mean(np.abs(moved)) > 30


def test_only_the_buffer_is_read_ahead():
    read = []

    def counting(file):
        for record in range(10_000):
            read.append(record)
            yield record

    stream = training_order.shuffled_epoch([0], counting, 0, 0, 50)
    for _ in range(10):
        next(stream)
    assert len(read) <= 50 + 1024


@given(st.integers(1, 300), SEEDS, st.data())
def test_a_shuffled_stream_is_a_permutation_per_epoch_and_can_start_anywhere(num_examples, seed, data):
    stream = training_order.shuffled_indices(num_examples, seed, np.arange(3 * num_examples))
    for epoch in stream.reshape(3, num_examples):
        assert sorted(epoch) == list(range(num_examples))
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start + 1, len(stream) + 1))
    if start < len(stream):
        part = training_order.shuffled_indices(num_examples, seed, np.arange(start, min(stop, len(stream))))
        np.testing.assert_array_equal(part, stream[start:stop])


def test_epochs_have_different_orders():
    stream = training_order.shuffled_indices(10, 1, np.arange(20))
    assert stream[:10].tolist() != stream[10:].tolist()


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=20).filter(any),
    SEEDS,
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 12),
    st.integers(1, 30),
)
def test_resuming_equals_skipping_and_hosts_share_the_batches(lengths, seed, size, hosts, start_step, shuffle_buffer):
    files = [[(file, record) for record in range(length)] for file, length in enumerate(lengths)]
    shards = types.SimpleNamespace(
        paths=files,
        read_indexed=lambda file: ((100 * number + record, (number, record)) for number, record in file),
        num_examples=sum(lengths),
        info=None,
    )

    def batches(host, num_hosts, batch_size, start):
        host_batches = reader._HostBatches(batch_size, host, num_hosts)
        inputs = reader._record_batches(shards, host_batches, True, seed, start, shuffle_buffer)
        return list(itertools.islice(inputs.batches(), 3 + start_step - start))

    whole = batches(0, 1, size * hosts, 0)
    for host in range(hosts):
        expected = [tuple(part[host * size : (host + 1) * size] for part in batch) for batch in whole]
        assert batches(host, hosts, size, 0) == expected
        assert batches(host, hosts, size, start_step) == batches(host, hosts, size, 0)[start_step:]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), SEEDS, st.integers(1, 7), st.integers(1, 9), st.data())
def test_balanced_batches(labels, seed, classes_per_batch, images_per_class, data):
    labels = np.array(labels)
    num_classes = len(set(labels.tolist()))
    classes_per_batch = min(classes_per_batch, num_classes)
    batches = training_order.ClassBalancedBatches(labels, classes_per_batch, images_per_class, seed)
    epoch = [batches(step) for step in range(num_classes // classes_per_batch)]
    classes = [labels[batch].reshape(classes_per_batch, images_per_class) for batch in epoch]
    assert all((batch == batch[:, :1]).all() for batch in classes)
    in_epoch = [label for batch in classes for label in batch[:, 0].tolist()]
    assert len(set(in_epoch)) == len(in_epoch)  # no class twice
    for images in epoch[0].reshape(classes_per_batch, images_per_class):
        repeats = collections.Counter(images.tolist())
        assert len(repeats) == min(images_per_class, int(np.sum(labels == labels[images[0]])))
        assert max(repeats.values()) - min(repeats.values()) <= 1
    step = data.draw(st.integers(0, 10**6))
    np.testing.assert_array_equal(batches(step), batches(step))


def test_all_classes_are_equally_frequent():
    labels = np.repeat(np.arange(11), np.arange(1, 12))
    balance = training_order.ClassBalancedBatches(labels, classes_per_batch=3, images_per_class=4, seed=1)
    counts = collections.Counter()
    for step in range(300):
        chosen = labels[balance(step)].reshape(3, 4)
        assert (chosen == chosen[:, :1]).all()
        assert len(set(chosen[:, 0])) == 3
        counts.update(chosen[:, 0].tolist())
    # An epoch of 3 batches contains 9 of the 11 classes.
    assert max(counts.values()) <= 100
    assert min(counts.values()) >= 60
