import pytest
from server_protos import parse

from keras_arcface.serving.deploy.batching_parameters import Batching


@pytest.mark.parametrize(("device", "cores"), [("cpu", 1), ("cpu", 2), ("cpu", 64), ("gpu", 2), ("gpu", 64)])
def test_the_server_accepts_the_parameters(device, cores):
    message = parse("BatchingParameters", "\n".join(Batching.for_device(device, cores).to_text_proto()))
    sizes = list(message.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) == [1, 2, 4, 8, 16, 32]
    assert sizes[-1] == message.max_batch_size.value
    assert message.num_batch_threads.value == (cores if device == "cpu" else min(cores, 4))
    assert message.max_enqueued_batches.value == 4 * message.num_batch_threads.value
    assert message.batch_timeout_micros.value == (0 if device == "cpu" else 2000)
    assert message.HasField("batch_timeout_micros")  # otherwise the server uses its default


def test_chosen_batch_sizes():
    batching = Batching.for_device("cpu", 100, batch_sizes=[3, 128])
    message = parse("BatchingParameters", "\n".join(batching.to_text_proto()))
    assert (list(message.allowed_batch_sizes), message.max_batch_size.value) == ([3, 128], 128)
    assert batching.concurrent_requests() == 400
    assert Batching((150,), 0, 1, 1).concurrent_requests() == 300


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"batch_sizes": ()}, r"batch_sizes=\(\)"),
        ({"batch_sizes": (0, 1)}, r"batch_sizes=\(0, 1\)"),
        ({"batch_sizes": (2, 1)}, r"batch_sizes=\(2, 1\)"),
        ({"batch_sizes": (2, 2)}, r"batch_sizes=\(2, 2\)"),
        ({"timeout_micros": -1}, "timeout_micros=-1"),
        ({"threads": 0}, "threads=0"),
        ({"enqueued_batches": 0}, "enqueued_batches=0"),
    ],
)
def test_invalid_parameters_are_refused(change, match):
    with pytest.raises(ValueError, match=f"Received: {match}"):
        Batching(**{"batch_sizes": (1, 2), "timeout_micros": 0, "threads": 1, "enqueued_batches": 1, **change})
    with pytest.raises(ValueError, match=r"device must be one of cpu, gpu. Received: device='tpu'"):
        Batching.for_device("tpu")
    with pytest.raises(ValueError, match="Received: cores=0"):
        Batching.for_device("cpu", cores=0)
