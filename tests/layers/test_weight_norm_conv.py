import torch
from torch import nn

from videonorm.layers import WeightNormConv3d


def make_conv() -> WeightNormConv3d:
    torch.manual_seed(0)
    return WeightNormConv3d(3, 4, (1, 3, 3), bias=False)


def test_equals_torch_weight_norm():
    layer = make_conv().double()
    nn.init.uniform_(layer.gain, 0.5, 2)
    theirs = nn.Conv3d(3, 4, (1, 3, 3), bias=False).double()
    theirs.load_state_dict({"weight": layer.weight})
    theirs = nn.utils.parametrizations.weight_norm(theirs)
    theirs.parametrizations.weight.original0.data.copy_(layer.gain.view(4, 1, 1, 1, 1))
    x = torch.randn(2, 3, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), theirs(x))
    torch.testing.assert_close(layer.effective_weight(), theirs.weight)
    layer(x).square().sum().backward()
    theirs(x).square().sum().backward()
    original = theirs.parametrizations.weight
    torch.testing.assert_close(layer.gain.grad, original.original0.grad.flatten())
    torch.testing.assert_close(layer.weight.grad, original.original1.grad)


def test_begins_as_a_plain_convolution():
    layer = make_conv()
    torch.testing.assert_close(layer.effective_weight(), layer.weight)
    nn.init.normal_(layer.weight)
    layer.reset_gain()
    torch.testing.assert_close(layer.effective_weight(), layer.weight)


def test_autocast_and_memory_format():
    layer = make_conv().to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 3, 2, 5, 5).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(layer.effective_weight(torch.bfloat16), layer.effective_weight().bfloat16())
    assert layer.effective_weight().stride() == layer.weight.stride()
