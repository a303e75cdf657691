"""Trainings continue from a checkpoint on other numbers of devices and hosts with the losses of one device."""

import pytest
from training import hosts
from training import resume_elsewhere
from training.resume_elsewhere import DOWN
from training.resume_elsewhere import ONE_DEVICE
from training.resume_elsewhere import UP
from training.resume_elsewhere import Setting
from training.resume_elsewhere import replicated
from training.resume_elsewhere import sharded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "setting", "parts"),
    [
        ("jax", Setting(dropout=0.4), sharded(UP)),
        ("jax", Setting(sample_rate=0.5, dropout=0.4), sharded(DOWN, on_hosts=True)),
        ("tensorflow", Setting(sample_rate=0.5), replicated(DOWN)),
    ],
    ids=["more-devices", "fewer-hosts", "fewer-replicas"],
)
def test_a_training_continues_on_another_number_of_devices(backend, setting, parts, tmp_path):
    pytest.importorskip(backend, reason=f"{backend} is absent")
    hosts.write_faces(tmp_path / "faces", resume_elsewhere.PEOPLE)
    losses = resume_elsewhere.run(backend, setting, parts, tmp_path / "faces")
    expected = resume_elsewhere.run(backend, setting, ONE_DEVICE["one device"], tmp_path / "faces")
    print(f"largest relative difference: {hosts.largest_difference(expected, losses):.1e}")
    assert losses == pytest.approx(expected, rel=1e-5)
