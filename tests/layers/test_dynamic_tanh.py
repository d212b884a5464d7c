import torch

from videonorm.layers import DynamicErf3d, DynamicTanh3d


def make_clips():
    return torch.randn(2, 4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_they_start_as_the_official_layers_do():
    x = make_clips()
    torch.testing.assert_close(DynamicTanh3d(4).double()(x), torch.tanh(0.5 * x))
    torch.testing.assert_close(DynamicErf3d(4).double()(x), torch.erf(0.5 * x))
    torch.testing.assert_close(DynamicErf3d(4, alpha=0.8, shift=0.1).double()(x), torch.erf(0.8 * x + 0.1))
    shapes = {name: tuple(tensor.shape) for name, tensor in DynamicErf3d(4).state_dict().items()}
    assert shapes == {"alpha": (1,), "weight": (4,), "bias": (4,), "shift": (1,)}


def test_every_value_is_mapped_by_itself():
    x = make_clips()
    for layer in (DynamicTanh3d(4).double(), DynamicErf3d(4).double()):
        assert torch.equal(layer(x)[:1, :, :1], layer(x[:1, :, :1]))
        assert torch.equal(layer(x), layer.eval()(x))
