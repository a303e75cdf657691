"""Adam with coupled weight decay, against its formula in float64 and against PyTorch."""

import keras
import numpy as np
import pytest
from test_sgd import SHAPES
from test_sgd import start_and_gradients
from test_sgd import trained

from keras_arcface.training import CoupledAdam
from keras_arcface.training import StepSchedule


def test_equals_the_formula_in_float64():
    weights, gradients = start_and_gradients()
    first, second = ({name: 0.0 for name in SHAPES} for _ in range(2))
    for step, gradient in enumerate(gradients):
        rate = 0.01 if step < 8 else 0.001
        for name in SHAPES:
            whole = gradient[name] + (0.3 * weights[name] if name == "kernel" else 0)
            first[name] = 0.9 * first[name] + 0.1 * whole
            second[name] = 0.999 * second[name] + 0.001 * whole**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            weights[name] = weights[name] - rate * mean / np.sqrt(square)
    schedule = StepSchedule(0.01, boundaries=[8])
    ours = trained(CoupledAdam(schedule, weight_decay=0.3, no_decay=["gamma"]))
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], weights[name], rtol=1e-5, atol=1e-6)


def test_equals_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is absent")
    start, gradients = start_and_gradients()
    weights = {name: torch.nn.Parameter(torch.tensor(start[name], dtype=torch.float32)) for name in SHAPES}
    theirs = torch.optim.Adam(weights.values(), 3.5e-4, weight_decay=5e-4)
    for gradient in gradients:
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradient[name], dtype=torch.float32)
        theirs.step()
    ours = trained(CoupledAdam(3.5e-4, weight_decay=5e-4))
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], weights[name].detach().numpy(), rtol=1e-5, atol=1e-6)


def test_differs_from_decoupled_decay():
    """The tests above would fail for the Adam of Keras."""
    decoupled = trained(keras.optimizers.Adam(0.01, weight_decay=0.3))
    assert np.abs(decoupled["kernel"] - trained(CoupledAdam(0.01, weight_decay=0.3))["kernel"]).max() > 1e-2


def test_a_negative_decay_is_refused():
    with pytest.raises(ValueError, match=r"weight_decay must be at least 0. Received: weight_decay=-1"):
        CoupledAdam(weight_decay=-1)
