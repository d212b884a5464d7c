import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers import MaxPool3d, max_pool, recompute

from .stack import Watched, assert_gradients, backward, gradients, make_clips, make_stack


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
        {"kernel_size": (2, 1, 1), "ceil_mode": True},
        {"kernel_size": 2, "stride": 1, "dilation": (1, 2, 1)},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("what", ["norms", "blocks"])
def test_max_pool_keeps_no_indices(what, memory_format, dtype, options):
    x = make_clips(2, 4, 5, 7, 7).to(dtype, memory_format=memory_format).requires_grad_()
    want = nn.MaxPool3d(**options)(x)
    dtypes = []

    def pack(tensor: Tensor) -> Tensor:
        dtypes.append(tensor.dtype)
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recompute(what):
        got = MaxPool3d(**options)(x)
    assert dtypes == [dtype] * (1 if what == "norms" else 2)  # the recipe of y has x, too
    assert torch.equal(got, want) and got.stride() == want.stride()
    grad_y = torch.randn_like(want)
    assert torch.equal(torch.autograd.grad(got, x, grad_y)[0], torch.autograd.grad(want, x, grad_y)[0])


@pytest.mark.parametrize("what", ["blocks", "blocks_8bit"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_nan(memory_format, what):
    """The gradient of a window goes to its last NaN, never beyond the edge, as in torch."""
    x = make_clips(2, 4, 4, 6, 6)
    x[x < -1] = torch.nan
    x[0, 0] = torch.nan
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    options = {"kernel_size": 3, "stride": 1, "padding": 1}
    want = nn.MaxPool3d(**options)(x)
    with recompute(what):
        got = MaxPool3d(**options)(x)
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    grad_y = torch.randn_like(want)
    assert torch.equal(torch.autograd.grad(got, x, grad_y)[0], torch.autograd.grad(want, x, grad_y)[0])


@pytest.mark.parametrize("learnt", [False, True])
def test_without_gradients_no_places_are_found(learnt, monkeypatch):
    monkeypatch.setattr(max_pool, "_largest", None)
    x = make_clips().requires_grad_(learnt)
    with recompute("blocks_8bit"), torch.set_grad_enabled(not learnt):
        assert torch.equal(MaxPool3d(2)(x), nn.MaxPool3d(2)(x))


def test_max_pool_with_indices():
    x = make_clips()
    with recompute("norms"):
        y, indices = MaxPool3d(2, return_indices=True)(x)
    assert torch.equal(F.max_unpool3d(y, indices, 2).amax((2, 3, 4)), y.amax((2, 3, 4)).clamp(min=0))


@pytest.mark.parametrize("padding", [0, 1])
def test_places_kept_in_a_byte(padding):
    """In 8 bits: the places of forward, whatever becomes of x."""
    options = {"kernel_size": 3, "stride": 2, "padding": padding, "ceil_mode": True}
    x = make_clips(2, 4, 5, 7, 7).requires_grad_()
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append((tensor.dtype, tensor.shape))
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recompute("blocks_8bit"):
        got = MaxPool3d(**options)(x)
    want = nn.MaxPool3d(**options)(x)
    assert kept[0] == (torch.uint8, want.shape)
    grad_y = torch.randn_like(want)
    assert torch.equal(torch.autograd.grad(got, x, grad_y)[0], torch.autograd.grad(want, x, grad_y)[0])


def test_behind_a_norm_the_pooled_is_made_again():
    stack = make_stack()
    stack.insert(2, MaxPool3d(2))
    want = gradients(stack, make_clips())
    for what, num_kept in (("norms", 1), ("blocks", 0)):
        watched = Watched(stack[1], stack[2])
        with recompute(what):
            y = stack(make_clips())
        assert watched.num_kept() == num_kept
        stack.zero_grad()
        backward(y)
        assert_gradients(stack, want)
