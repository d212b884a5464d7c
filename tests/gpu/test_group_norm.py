"""The group norm kernels against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.ops.group_norm import group_norm, group_norm_and_statistics

SHAPES = {  # ((B, C, T, H, W), G)
    "small_one_clip": ((1, 32, 4, 7, 7), 32),
    "small_one_group": ((2, 24, 2, 5, 5), 1),
    "small_odd_sizes": ((3, 15, 5, 3, 7), 5),
    "small_one_pixel": ((2, 64, 1, 1, 1), 16),
    "small_3_channels_a_group": ((2, 96, 2, 5, 5), 32),
    "small_26_channels_a_group": ((2, 832, 1, 3, 3), 32),
    "small_group_wider_than_a_block": ((1, 2048, 1, 3, 3), 1),
    "stem_of_one_clip": ((1, 64, 16, 56, 56), 32),
    "last_stage": ((8, 2048, 2, 7, 7), 32),
    "odd_and_large": ((2, 50, 9, 57, 55), 25),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ENDS = {"plain": (False, False), "relu": (False, True), "add": (True, False), "add_relu": (True, True)}


def make_inputs(shape, dtype, memory_format, mean=30.0) -> list[Tensor]:
    """x, weight, bias, residual and grad_y, all of them exact in `dtype`."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        values = torch.randn(size, generator=generator, dtype=torch.float64).to("cuda", dtype)
        return values.contiguous(memory_format=memory_format) if len(size) == 5 else values

    x = (mean + randn(*shape).double()).to(dtype).contiguous(memory_format=memory_format)
    return [x, 1 + randn(shape[1]), randn(shape[1]), randn(*shape), randn(*shape)]


@pytest.mark.parametrize("add, relu", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape, num_groups", SHAPES.values(), ids=SHAPES)
def test_error_is_at_most_twice_eager(
    shape, num_groups, dtype, memory_format, add, relu, assert_at_most_twice
):
    *inputs, grad_y = make_inputs(shape, dtype, memory_format)
    inputs = inputs if add else inputs[:3]

    def eager(x, weight, bias, residual=None):
        y = F.group_norm(x.contiguous(), num_groups, weight, bias, 1e-5)
        y = y if residual is None else y + residual
        return F.relu(y) if relu else y

    def ours(x, weight, bias, residual=None):
        return group_norm(x, weight.float(), bias.float(), num_groups, 1e-5, residual, relu)

    # A value that rounding moves across the kink has either gradient: leave those out.
    x, weight, bias, *residual = (t.double() for t in inputs)
    z = F.group_norm(x, num_groups, weight, bias, 1e-5) + sum(residual)
    grad_y = grad_y * (z.abs() > 0.3)

    def run(norm, to):
        leaves = [t.to(to).requires_grad_() for t in inputs]
        y = norm(*leaves)
        return [y, *torch.autograd.grad(y, leaves, grad_y.to(to))]

    got = run(ours, dtype)
    assert got[0].dtype == got[1].dtype == dtype
    assert got[0].stride() == got[1].stride() == inputs[0].stride()
    for values in zip(got, run(eager, dtype), run(eager, torch.float64), strict=True):
        assert_at_most_twice(*values)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", ["small_odd_sizes", "stem_of_one_clip", "odd_and_large"])
def test_runs_are_the_same_to_the_bit(name, dtype, memory_format):
    shape, num_groups = SHAPES[name]
    *inputs, grad_y = make_inputs(shape, dtype, memory_format)

    def run() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in inputs]
        x, weight, bias, residual = leaves
        y = group_norm(x, weight, bias, num_groups, 1e-5, residual, relu=True)
        return [y, *torch.autograd.grad(y, leaves, grad_y)]

    first = run()
    for _ in range(10):
        assert all(map(torch.equal, run(), first))


@pytest.mark.parametrize("add, relu", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("name", ["small_odd_sizes", "last_stage"])
def test_apply_makes_y_again_to_the_bit(name, add, relu):
    shape, num_groups = SHAPES[name]
    x, weight, bias, residual, _ = make_inputs(shape, torch.bfloat16, torch.channels_last_3d)
    residual = residual if add else None
    y, mean, rstd = group_norm_and_statistics(x, weight, bias, num_groups, 1e-5, residual, relu)
    again = torch.ops.videonorm.group_norm_apply(x, weight, bias, residual, mean, rstd, 1e-5, relu)
    assert torch.equal(y, again)


def test_small_without_weight_and_bias():
    x = make_inputs((2, 8, 3, 5, 4), torch.float32, torch.channels_last_3d)[0]
    torch.testing.assert_close(
        group_norm(x, None, None, 4), F.group_norm(x.contiguous(), 4), atol=1e-4, rtol=0
    )


def test_small_nan_and_inf_pass_through():
    x = make_inputs((3, 8, 1, 4, 4), torch.float32, torch.channels_last_3d)[0]
    x[0, 0, 0, 0, 0], x[1, 7, 0, 1, 1] = float("nan"), float("inf")
    want = F.relu(F.group_norm(x.contiguous(), 2))
    torch.testing.assert_close(
        group_norm(x, None, None, 2, relu=True), want, equal_nan=True, atol=1e-4, rtol=0
    )


def test_small_far_off_centre():
    """Mean 500 times the standard deviation."""
    x = make_inputs((2, 16, 4, 14, 14), torch.float32, torch.channels_last_3d, mean=500.0)[0]
    y = group_norm(x, None, None, 8)
    torch.testing.assert_close(y.double(), F.group_norm(x.double(), 8), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(43, 64, 16, 224, 224), (1, 64, 704, 224, 224)], ids=["clips", "one_clip"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_more_than_2_to_the_31_elements(shape, memory_format):
    """The last group of the last clip is what it is alone."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    x, grad_y = (
        torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=memory_format).normal_()
        for _ in range(2)
    )
    assert x.numel() > 2**31
    x += 3
    x.requires_grad_()
    y = group_norm(x, None, None, 32, relu=True)
    (grad_x,) = torch.autograd.grad(y, x, grad_y)
    alone = x[-1:, -2:].detach().double().contiguous().requires_grad_()
    want = F.relu(F.group_norm(alone, 1))
    (want_grad,) = torch.autograd.grad(want, alone, grad_y[-1:, -2:].double().contiguous())
    near_kink = F.group_norm(alone, 1).detach().abs() < 1e-4
    torch.testing.assert_close(y[-1:, -2:].double(), want, rtol=2**-8, atol=1e-4)
    difference = (grad_x[-1:, -2:].double() - want_grad).masked_fill(near_kink, 0)
    assert difference.abs().max() < 2**-8 * want_grad.abs().max()
