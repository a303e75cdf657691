import keras
import numpy as np
import pytest

from keras_arcface.training import CoupledSGD
from keras_arcface.training import StepSchedule

SHAPES = {"kernel": (5, 7), "gamma": (7,)}
STEPS = 20


def start_and_gradients():
    generator = np.random.default_rng(2)
    start = {name: generator.normal(size=shape) for name, shape in SHAPES.items()}
    return start, [{name: generator.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(STEPS)]


def trained(optimizer):
    start, gradients = start_and_gradients()
    variables = [keras.Variable(start[name], name=name) for name in SHAPES]
    for gradient in gradients:
        optimizer.apply([np.float32(gradient[name]) for name in SHAPES], variables)
    return {name: np.array(variable) for name, variable in zip(SHAPES, variables, strict=True)}


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_the_formula_in_float64(nesterov):
    weights, gradients = start_and_gradients()
    velocity = {name: 0.0 for name in SHAPES}
    for step, gradient in enumerate(gradients):
        rate = 0.1 if step < 8 else 0.01
        for name in SHAPES:
            whole = gradient[name] + (5e-2 * weights[name] if name == "kernel" else 0)
            velocity[name] = 0.9 * velocity[name] + whole
            weights[name] = weights[name] - rate * (whole + 0.9 * velocity[name] if nesterov else velocity[name])
    schedule = StepSchedule(0.1, boundaries=[8])
    ours = trained(CoupledSGD(schedule, weight_decay=5e-2, nesterov=nesterov, no_decay=["gamma"]))
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], weights[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_fused_update_equals_the_composed_one(nesterov, monkeypatch):
    fused = trained(CoupledSGD(0.1, nesterov=nesterov))
    monkeypatch.setattr(CoupledSGD, "_apply_fused", lambda *_: False)
    composed = trained(CoupledSGD(0.1, nesterov=nesterov))
    for name in SHAPES:
        np.testing.assert_allclose(fused[name], composed[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_torch(nesterov):
    torch = pytest.importorskip("torch", reason="PyTorch is absent")
    start, gradients = start_and_gradients()
    weights = {name: torch.nn.Parameter(torch.tensor(start[name], dtype=torch.float32)) for name in SHAPES}
    theirs = torch.optim.SGD(weights.values(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
    for step, gradient in enumerate(gradients):
        theirs.param_groups[0]["lr"] = 0.1 if step < 8 else 0.01
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradient[name], dtype=torch.float32)
        theirs.step()
    ours = trained(CoupledSGD(StepSchedule(0.1, boundaries=[8]), nesterov=nesterov))
    for name in SHAPES:
        expected = weights[name].detach().numpy()
        difference = np.abs(ours[name] - expected).max() / np.abs(expected).max()
        print(f"{name}, {STEPS} steps: largest difference over the largest weight {difference:.1e}")
        assert difference < 1e-6


def test_differs_from_decoupled_decay():
    """The tests above would fail for the SGD of Keras."""
    decoupled = trained(keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-2))
    assert np.abs(decoupled["kernel"] - trained(CoupledSGD(0.1, weight_decay=5e-2))["kernel"]).max() > 1e-2


def test_survives_serialization():
    optimizer = CoupledSGD(
        0.5, momentum=0.8, weight_decay=1e-4, nesterov=True, no_decay=["gamma", "bias"], use_ema=True
    )
    config = keras.optimizers.serialize(optimizer)
    assert keras.optimizers.serialize(keras.optimizers.deserialize(config)) == config
    assert config["config"]["weight_decay"] == 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\). Received: momentum=1.0"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0. Received: weight_decay=-0.0001"),
        ({"weight_decay": None}, "weight_decay must be at least 0. Received: weight_decay=None"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoupledSGD(**arguments)
