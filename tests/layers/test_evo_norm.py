import pytest
import torch
from timm.layers import EvoNorm2dS0
from torch import nn

from videonorm.layers import EvoNormS0


@pytest.fixture
def x():
    return 3 + torch.randn(2, 6, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activation", ["relu", None])
def test_it_is_timms_over_the_frames_of_a_clip_in_one_image(x, activation, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # in which timm takes the deviation
    layer = EvoNormS0(6, 3, activation=activation).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.5, generator=torch.Generator().manual_seed(1))
    peer = EvoNorm2dS0(6, groups=3, apply_act=activation is not None).double()
    peer.load_state_dict(layer.state_dict())
    leaves = [tensor.clone().requires_grad_() for tensor in (x, x.flatten(2, 3))]
    outputs = layer(leaves[0]), peer(leaves[1])
    torch.testing.assert_close(outputs[0].flatten(2, 3), outputs[1], rtol=1e-9, atol=1e-9)
    grads = [
        torch.autograd.grad(y.square().sum(), [leaf, *module.parameters()])
        for y, leaf, module in zip(outputs, leaves, (layer, peer), strict=True)
    ]
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got.view(want.shape), want, rtol=1e-9, atol=1e-9)


def test_its_activation_is_before_the_residual_and_none_is_behind(x):
    layer = EvoNormS0(6, 3, activation="relu").double()
    torch.testing.assert_close(layer(x, -x), layer(x) - x)
    assert (layer(x, -x) < 0).any()


def test_groups():
    assert EvoNormS0(6, 4, on_indivisible="divisor").num_groups == 3
    with pytest.raises(ValueError, match=r"num_groups \(4\) must divide num_channels \(6\)"):
        EvoNormS0(6, 4)
