import pytest
import torch
from timm.layers import FilterResponseNormAct2d, FilterResponseNormTlu2d
from torch import nn

from videonorm.layers import FilterResponseNorm3d


@pytest.fixture
def x():
    return 3 + torch.randn(2, 6, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomize(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.5, generator=generator)
    return layer


@pytest.mark.parametrize("activation", ["relu", None])
def test_it_is_timms_over_the_frames_of_a_clip_in_one_image(x, activation, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # in which timm takes the mean
    layer = randomize(FilterResponseNorm3d(6, activation=activation).double())
    peer = FilterResponseNormTlu2d(6, apply_act=activation is not None).double()
    peer.load_state_dict(layer.state_dict())
    inputs = [x, *layer.parameters()], [x.flatten(2, 3), *peer.parameters()]
    inputs[0][0], inputs[1][0] = (tensor.clone().requires_grad_() for tensor in (inputs[0][0], inputs[1][0]))
    outputs = layer(inputs[0][0]), peer(inputs[1][0])
    torch.testing.assert_close(outputs[0].flatten(2, 3), outputs[1], rtol=1e-9, atol=1e-9)
    grads = [torch.autograd.grad(y.square().sum(), of) for y, of in zip(outputs, inputs, strict=True)]
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got.view(want.shape), want, rtol=1e-9, atol=1e-9)


def test_with_tau_at_its_start_it_ends_in_a_relu(x):
    layer, peer = FilterResponseNorm3d(6, activation="relu").double(), FilterResponseNormAct2d(6).double()
    torch.testing.assert_close(layer(x - 3).flatten(2, 3), peer((x - 3).flatten(2, 3)), rtol=1e-6, atol=1e-6)


def test_the_threshold_is_behind_the_residual(x):
    layer = FilterResponseNorm3d(6, activation="relu").double()
    nn.init.zeros_(layer.weight)
    residual = x - 3
    assert torch.equal(layer(x, residual), residual.relu())
    nn.init.constant_(layer.tau, -0.5)
    assert torch.equal(layer(x, residual), residual.clamp(min=-0.5))


def test_there_is_a_threshold_where_a_block_asks_for_an_activation():
    layer = FilterResponseNorm3d(6)
    assert layer.tau is None and list(layer.state_dict()) == ["weight", "bias"]
    layer.double().requires_grad_(False)
    layer.activation = "relu"
    assert layer.tau.dtype == torch.float64 and not layer.tau.requires_grad
    tau = layer.tau
    layer.activation = "relu"
    assert layer.tau is tau and list(layer.state_dict()) == ["weight", "bias", "tau"]
    layer.activation = None
    assert layer.tau is None and "tau" not in layer.state_dict()


def test_one_clip_is_normalized_as_one_of_many(x):
    layer = FilterResponseNorm3d(6, activation="relu").double()
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))
