import torch
import torch.nn.functional as F

from videonorm.layers import BatchNorm3d, NoNorm


def test_adds_the_residual_and_rectifies():
    x, residual = torch.randn(2, 2, 3, 2, 4, 4)
    layer = NoNorm(3)
    assert torch.equal(layer(x), x)
    assert torch.equal(layer(x, residual), x + residual)
    layer.activation = "relu"
    assert torch.equal(layer(x), F.relu(x))
    assert torch.equal(layer(x, residual), F.relu(x + residual))


def test_convolutions_need_a_bias_before_it():
    assert NoNorm(3).needs_conv_bias and not BatchNorm3d(3).needs_conv_bias
    assert not list(NoNorm(3).parameters())
