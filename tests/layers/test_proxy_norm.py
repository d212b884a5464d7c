import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erfinv
from torch import nn

from videonorm.layers import GroupNorm3d, ProxyNorm3d


@pytest.fixture
def x():
    return 3 + torch.randn(2, 8, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def layer():
    layer = ProxyNorm3d(8, 4, activation="relu").double()
    for seed, parameter in enumerate(layer.parameters()):
        nn.init.normal_(parameter, 0.5, generator=torch.Generator().manual_seed(seed))
    return layer


def by_channel(x: torch.Tensor, layer: ProxyNorm3d) -> torch.Tensor:
    """As written in the authors' code: a proxy for each channel, whose samples are activated as it is."""
    normalized = F.group_norm(x, 4, eps=layer.eps)
    samples = torch.from_numpy(np.sqrt(2) * erfinv(2 * (np.arange(200) + 0.5) / 200.0 - 1))
    channels = []
    for c in range(8):
        gamma, beta = layer.weight[c], layer.bias[c]
        proxy = F.relu(gamma * ((1 + layer.proxy_scale[c]) * samples + layer.proxy_mean[c]) + beta)
        variance = (proxy - proxy.mean()).square().mean()
        z = F.relu(gamma * normalized[:, c] + beta)
        channels.append((z - proxy.mean()) / (variance + 0.03).sqrt())
    return torch.stack(channels, 1)


def test_outputs_and_gradients_are_those_of_a_loop_over_channels(layer, x):
    results = []
    for function in (layer, lambda clips: by_channel(clips, layer)):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append([y, *torch.autograd.grad(y.pow(3).sum(), [leaf, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_normal_values_of_any_gamma_and_beta_come_out_normalized():
    layer = ProxyNorm3d(2, 1, activation="relu", proxy_eps=0.0).double()
    layer.weight.data = torch.tensor([3.0, 0.5]).double()
    layer.bias.data = torch.tensor([-2.0, 1.0]).double()
    x = torch.randn(1, 2, 40, 50, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    var, mean = torch.var_mean(layer(x), (0, 2, 3, 4))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=0.02)
    torch.testing.assert_close(var, torch.ones_like(var), rtol=0, atol=0.05)


def test_without_an_activation_or_with_a_residual_it_is_group_norm(layer, x):
    plain = GroupNorm3d(8, 4, activation="relu").double()
    plain.weight, plain.bias = layer.weight, layer.bias
    residual = torch.flip(x, [0]) - 3
    torch.testing.assert_close(layer(x, residual), plain(x, residual))
    grads = torch.autograd.grad(layer(x, residual).sum(), [layer.proxy_mean, layer.proxy_scale])
    assert not any(grad.any() for grad in grads)
    layer.activation = plain.activation = None
    assert list(layer.state_dict()) == ["weight", "bias"]
    for given in (None, residual):
        torch.testing.assert_close(layer(x, given), plain(x, given))


def test_one_clip_is_normalized_as_one_of_many(layer, x):
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))


def test_an_exported_one_needs_no_function_that_onnx_has_not(layer, x):
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x[:1]), layer(x[:1]))
    assert "erfinv" not in str(program.graph) and "quantiles" not in layer.state_dict()
