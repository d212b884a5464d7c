"""Tensors that lie anywhere in memory, and the operators with them as on a GPU."""

import pytest
import torch
from torch import Tensor

import videonorm.ops
from videonorm.kernels.layout import ACCESS_BYTES, aligned, dense, in_one_run, in_order_of

LAST = torch.channels_last_3d
ON_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=LAST),
    "transposed": lambda x: x.transpose(2, 4).contiguous().transpose(2, 4),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "strided_channels_last": lambda x: x.repeat(1, 2, 1, 1, 1).contiguous(memory_format=LAST)[:, :6],
    "one_site": lambda x: x[..., :1, :1, :1],
    "four_dimensions": lambda x: x[:, :, 0].contiguous(memory_format=torch.channels_last),
    "three_dimensions": lambda x: x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2),
    "two_dimensions": lambda x: x[:, :, 0, 0, 0],
}
X = torch.arange(2 * 6 * 3 * 2 * 4.0).view(2, 6, 3, 2, 4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dense(layout):
    x = LAYOUTS[layout](X)
    y = dense(x)
    assert torch.equal(x, y)
    assert y.is_contiguous() or y.movedim(1, -1).is_contiguous()
    assert (y is x) == (not layout.startswith(("transposed", "strided", "one_site", "two")))
    assert layout != "strided_channels_last" or y.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("other", [torch.contiguous_format, LAST])
def test_in_order_of(layout, other):
    x = layout(X)
    tensor = x.half().contiguous(memory_format=other) if x.dim() == 5 else x.half()
    got = in_order_of(x, tensor)
    assert got.dtype == torch.half and torch.equal(got, x.half())
    assert got.stride() == torch.empty_like(x).stride()
    kept = in_order_of(dense(x), tensor)
    assert in_order_of(dense(x), kept) is kept


def test_aligned():
    memory = torch.arange(64.0)
    last = memory[3:63].view(2, 2, 5, 3, 1).movedim(-2, 1)  # channels last
    for tensor in (memory[1:5], memory[2:62].view(3, 20), last):
        got = aligned(tensor)
        assert torch.equal(got, tensor) and got.stride() == tensor.stride()
        assert got.data_ptr() % ACCESS_BYTES == 0 and aligned(got) is got


def test_in_one_run():
    memory = torch.arange(16.0)
    for vector in (memory[1:5], memory[::2], memory[1::2]):
        got = in_one_run(vector)
        assert torch.equal(got, vector) and got.is_contiguous() and got.data_ptr() % ACCESS_BYTES == 0
        assert in_one_run(got) is got


@pytest.fixture
def on_gpu(shim, monkeypatch):
    """Call it with an operator and CPU tensors: what the dispatcher runs for CUDA tensors takes them."""
    monkeypatch.setattr(videonorm.ops.registration, "gpu", lambda device: shim)
    return lambda operator, *arguments: operator.default.redispatch(ON_CUDA, *arguments)


def assert_same(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert one.stride() == other.stride()


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "add_relu"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_group_norm(on_gpu, layout, fused):
    """The kernels give what the CPU gives, with the same strides."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    x = layout(randn(*X.shape))
    grad_y, residual = randn(*x.shape), randn(*x.shape) if fused else None
    weight, bias = randn(1).expand(6), randn(6, 2)[:, 0]
    ops = torch.ops.videonorm
    inputs = (x, weight, bias, residual, 3, 1e-5, fused)
    want = y, mean, rstd = ops.group_norm(*inputs)
    assert_same(on_gpu(ops.group_norm, *inputs), want)
    apply = (x, weight, bias, residual, mean, rstd, 1e-5, fused)
    assert_same([on_gpu(ops.group_norm_apply, *apply)], [y])
    wanted = [True, False, True, fused]
    saved = (grad_y, x, weight, bias, mean, rstd, y if fused else None, 1e-5, fused, wanted)
    assert_same(on_gpu(ops.group_norm_backward, *saved), ops.group_norm_backward(*saved))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one_site"])
def test_weight_standardize(on_gpu, layout):
    generator = torch.Generator().manual_seed(0)
    weight = LAYOUTS[layout](torch.randn(X.shape, generator=generator))
    grad, gain = (torch.randn(size, generator=generator) for size in (weight.shape, weight.shape[:1]))
    ops = torch.ops.videonorm
    options = (True, True, False, [1e-5], "under_root", [1.0])
    inputs = ([weight], [gain], *options, torch.float32)
    w_hats, *statistics = ops.weight_standardize(*inputs)
    got_w_hats, *got = on_gpu(ops.weight_standardize, *inputs)
    assert_same([*got_w_hats, *got], [*w_hats, *statistics])
    saved = ([grad], [weight], [gain], *statistics, *options)
    (want,), want_gain = ops.weight_standardize_backward(*saved)
    (grad_weight,), grad_gain = on_gpu(ops.weight_standardize_backward, *saved)
    assert_same([grad_weight, grad_gain], [want, want_gain])
