import collections

import numpy as np
import pytest

from keras_arcface.data import training_order

FILES = [[f"{file}-{record}" for record in range(length)] for file, length in enumerate((7, 1, 30, 0, 12, 5, 45))]
EMPTY = [[]] * 40
ALL = sorted(record for file in FILES for record in file)


def one_pass(number, seed=3, shuffle_buffer=20, files=FILES):
    return list(training_order.shuffled_epoch(files, lambda file: file, seed, number, shuffle_buffer))


@pytest.mark.parametrize("shuffle_buffer", [1, 20, 1000])
@pytest.mark.parametrize("copies", [1, 5])  # fewer and more files than are open at once
def test_a_pass_gives_every_record_once(shuffle_buffer, copies):
    given = one_pass(0, shuffle_buffer=shuffle_buffer, files=FILES * copies)
    assert collections.Counter(given) == collections.Counter(ALL * copies)


def test_many_empty_files_end_nothing():
    for number in range(20):
        assert collections.Counter(one_pass(number, files=FILES * 3 + EMPTY)) == collections.Counter(ALL * 3)


def test_a_pass_depends_on_seed_and_number():
    assert one_pass(4) == one_pass(4)
    assert one_pass(4) != one_pass(5)
    assert one_pass(4) != one_pass(4, seed=4)


def test_files_are_read_in_turns():
    given = one_pass(0, shuffle_buffer=1)
    assert {record.split("-")[0] for record in given[:6]} == {"0", "1", "2", "4", "5", "6"}


def test_the_buffer_mixes():
    given = [int(record) for record in one_pass(0, files=[[str(i) for i in range(1000)]], shuffle_buffer=100)]
    assert sorted(given) == list(range(1000))
    moved = np.array(given) - np.arange(1000)
    assert moved.max() <= 100
    assert np.mean(np.abs(moved)) > 30


def test_only_the_buffer_is_held():
    read = []

    def counting(file):
        for record in range(10_000):
            read.append(record)
            yield record

    stream = training_order.shuffled_epoch([0], counting, 0, 0, 50)
    for _ in range(10):
        next(stream)
    assert len(read) <= 50 + 1024


def test_rows_of_a_shuffled_stream():
    rows = np.arange(35)
    stream = training_order.shuffled_indices(10, 1, rows)
    for start in (0, 10, 20):
        assert sorted(stream[start : start + 10]) == list(range(10))
    assert stream[:10].tolist() != stream[10:20].tolist()
    np.testing.assert_array_equal(training_order.shuffled_indices(10, 1, rows[17:23]), stream[17:23])


def test_every_class_is_as_frequent_as_any_other():
    labels = np.repeat(np.arange(11), np.arange(1, 12))
    balance = training_order.ClassBalancedBatches(labels, classes_per_batch=3, images_per_class=4, seed=1)
    counts = collections.Counter()
    for step in range(300):
        chosen = labels[balance(step)].reshape(3, 4)
        assert (chosen == chosen[:, :1]).all()
        assert len(set(chosen[:, 0])) == 3
        counts.update(chosen[:, 0].tolist())
    # A pass of 3 batches takes 9 of the 11 classes.
    assert max(counts.values()) <= 100
    assert min(counts.values()) >= 60
