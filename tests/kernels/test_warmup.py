import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import videonorm


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv3d(4, 2, 1)
    )


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 4, 6, 6)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_changes(model, x, training):
    model.train(training)
    model(x).sum().backward()
    model[4].zero_grad()  # so that one has no gradient
    before = copy.deepcopy(model.state_dict())
    tensors = [*model.parameters(), *model.buffers()]
    grads = [(parameter.grad, copy.deepcopy(parameter.grad)) for parameter in model.parameters()]
    random = torch.get_rng_state()

    assert videonorm.warmup(model, x) is None

    assert all(module.training == training for module in model.modules())
    assert all(
        now is then for now, then in zip([*model.parameters(), *model.buffers()], tensors, strict=True)
    )
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    for parameter, (grad, value) in zip(model.parameters(), grads, strict=True):
        assert parameter.grad is grad
        torch.testing.assert_close(grad, value, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert x.grad is None and not x.requires_grad


def test_it_runs_forward_and_backward(model, x):
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append("forward"))
    model[1].register_full_backward_hook(lambda *_: calls.append("backward"))
    videonorm.warmup(model, x)
    assert calls == ["forward", "backward"]
    calls.clear()
    with torch.no_grad():
        videonorm.warmup(model, x)
    assert calls == ["forward"]


def test_gradient_of_x_where_it_is_wanted(model, x):
    seen = []
    model[0].register_full_backward_hook(lambda module, grad_x, grad_y: seen.append(grad_x[0]))
    videonorm.warmup(model, x.requires_grad_())
    assert seen[0].shape == x.shape
    assert x.grad is None


def test_a_buffer_that_the_model_replaces(x):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            self.calls = self.calls + 1
            return {"x": x}

    model = Counting()
    calls = model.calls
    videonorm.warmup(model, x)
    assert model.calls is calls and calls == 0


def test_everything_is_as_it_was_after_an_error(model, x):
    model[4].register_forward_hook(lambda *_: 1 / 0)
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        videonorm.warmup(model, x)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_package_itself_stays_light():
    script = """
import sys, videonorm
assert "torch" not in sys.modules
assert videonorm.warmup.__name__ == "warmup"
assert not hasattr(videonorm, "warmdown")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
