"""Values in 8 bits against their definition, masks in one bit."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from videonorm.ops import eight_bits
from videonorm.ops.eight_bits import SHARING, STEPS, Form, dequantize, pack_mask, quantize, unpack_mask

SHAPES = {
    "clip": (2, 16, 3, 4, 5),
    "not_a_multiple": (1, 7, 3, 5, 3),
    "few": (2, 3, 1, 1, 2),
    "flat": (3, 300),
    "empty": (0, 8, 2, 4, 4),
}


def make_values(*shape: int, dtype=torch.float32) -> Tensor:
    """Channels about 30 of very different spread."""
    torch.manual_seed(0)
    spread = torch.logspace(-3, 1, shape[1]).view(-1, *[1] * (len(shape) - 2))
    return (30 + spread * torch.randn(shape)).to(dtype)


def restored(x: Tensor, stochastic: bool = False) -> Tensor:
    return dequantize(*quantize(x, stochastic), Form.of(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_at_most_half_a_step_is_lost(shape, channels_last, dtype):
    x = make_values(*shape, dtype=dtype)
    if channels_last and x.dim() == 5:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    got = restored(x)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    assert got.stride() == x.stride() or not x.numel()
    in_memory = [
        (each.permute(0, 2, 3, 4, 1) if channels_last and x.dim() == 5 else each).flatten().double()
        for each in (x, got)
    ]
    for of_x, of_got in zip(*(values.split(SHARING) for values in in_memory), strict=True):
        half = (of_x.max() - of_x.min()) / STEPS / 2 if len(of_x) else 0
        rounding = torch.finfo(dtype).eps * 40 + 1e-5 * (dtype is not torch.float64)
        assert (of_got - of_x).abs().le(half * 1.001 + rounding).all()


def test_bytes():
    x = make_values(2, 16, 4, 8, 8, dtype=torch.bfloat16)
    codes, ranges = quantize(x)
    assert codes.dtype == torch.uint8 and codes.numel() == x.numel()
    assert ranges.nbytes == x.numel() / SHARING * 8


def test_the_least_and_the_largest_and_the_constant():
    x = torch.cat([torch.linspace(-5, 250, SHARING), torch.full((SHARING,), 0.1)])[None]
    got = restored(x)
    torch.testing.assert_close(got[:, :SHARING], x[:, :SHARING])  # each a step of its own
    assert torch.equal(got[:, SHARING:], x[:, SHARING:])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_hidden(value):
    x = torch.randn(1, 2 * SHARING)
    x[0, 3] = value
    got = restored(x)
    assert got[0, 3].isnan() and got[0, SHARING:].isfinite().all()


def test_rounding_at_random_has_no_bias():
    torch.manual_seed(0)
    x = torch.rand(1, SHARING)
    x[0, :2] = torch.tensor([0.0, 1.0])
    error = restored(x.repeat(2000, 1), stochastic=True) - x
    assert error.abs().max() < 1.001 / STEPS
    assert error.mean(0).abs().max() < 5 * 0.5 / STEPS / 2000**0.5
    assert (restored(x) - x).abs().max() > 5 * 0.5 / STEPS / 2000**0.5  # that to the nearest has it


def test_in_parts(monkeypatch):
    x = make_values(2, 16, 3, 4, 5)
    want = quantize(x)
    monkeypatch.setattr(eight_bits, "VALUES_AT_ONCE", 100)
    assert all(map(torch.equal, quantize(x), want))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_masks(shape, channels_last):
    y = torch.relu(make_values(*shape) - 30)
    if channels_last and y.dim() == 5:
        y = y.contiguous(memory_format=torch.channels_last_3d)
    bits = pack_mask(y)
    assert bits.dtype == torch.uint8 and len(bits) == -(-y.numel() // 8)
    mask = unpack_mask(bits, Form.of(y))
    assert torch.equal(mask, y > 0)
    assert mask.stride() == y.stride() or not y.numel()


def test_a_mask_lets_nan_through():
    """As a ReLU does, and its gradient."""
    y = torch.tensor([torch.nan, 0.0, 1.0, torch.inf])
    assert unpack_mask(pack_mask(y), Form.of(y)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("shape", [(16, 3, 4, 5), (7, 3, 5, 3), (16, 1, 2, 2)], ids=str)
def test_as_many_operations_for_any_number_of_clips(shape):
    """Four of the last shape fill a row, three do not."""

    class Operations(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    found = []
    for clips in (2, 3, 4, 64):
        x = torch.randn(clips, *shape)
        with Operations() as operations:
            dequantize(*quantize(x), Form.of(x))
            unpack_mask(pack_mask(x), Form.of(x))
        found.append(operations.names)
    assert all(names == found[0] for names in found)
