"""What group norm computes: values, gradients, dtypes, memory formats."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from videonorm.ops.group_norm import (
    _apply_reference,
    _backward_reference,
    group_norm,
    group_norm_reference,
)

from .group_norm_inputs import APPLY_OP, FORMATS, OP, assert_same_gradients, make_inputs

SHAPES = {  # ((B, C, T, H, W), G)
    "one_clip": ((1, 32, 4, 7, 7), 32),
    "one_group": ((2, 24, 2, 5, 5), 1),
    "odd_sizes": ((3, 15, 5, 3, 7), 5),
    "one_pixel": ((2, 64, 1, 1, 1), 16),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def definition(x, weight, bias, residual, num_groups, relu, eps=1e-5):
    """Written from the paper, group by group, without a function for variances or norms."""
    channels_per_group = x.shape[1] // num_groups
    groups = []
    for group in x.split(channels_per_group, dim=1):
        count = group[0].numel()
        mean = group.sum((1, 2, 3, 4), keepdim=True) / count
        var = ((group - mean) ** 2).sum((1, 2, 3, 4), keepdim=True) / count
        groups.append((group - mean) / torch.sqrt(var + eps))
    y = torch.cat(groups, 1) * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1) + residual
    return y.clamp(min=0) if relu else y


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape, num_groups", SHAPES.values(), ids=SHAPES)
def test_reference_is_the_definition(shape, num_groups, relu):
    *inputs, grad_y = make_inputs(shape)
    leaves = [t.requires_grad_() for t in inputs]
    got, want = (
        group_norm_reference(*leaves, num_groups, 1e-5, relu)[0],
        definition(*leaves, num_groups, relu),
    )
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert_same_gradients(got, want, leaves, grad_y, rtol=1e-8, atol=1e-8)


def test_reference_equals_torch():
    x, weight, bias, *_ = make_inputs((2, 8, 3, 4, 5))
    y, mean, rstd = group_norm_reference(x, weight, bias, None, 4, 1e-5, False)
    want = torch.native_group_norm(x.flatten(2), weight, bias, 2, 8, 60, 4, 1e-5)
    for got, expected in zip((y.flatten(2), mean, rstd), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "add_relu"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("shape, num_groups", SHAPES.values(), ids=SHAPES)
def test_error_is_at_most_twice_eager(
    shape, num_groups, mean, dtype, memory_format, fused, assert_at_most_twice
):
    *inputs, grad_y = make_inputs(shape, mean, dtype, memory_format)
    inputs = inputs if fused else inputs[:3]

    def eager(x, weight, bias, residual=None):
        y = F.group_norm(x.contiguous(), num_groups, weight, bias, 1e-5)
        return y if residual is None else F.relu(y + residual)

    def ours(x, weight, bias, residual=None):
        return group_norm(
            x, weight.float(), bias.float(), num_groups, 1e-5, residual, relu=residual is not None
        )

    # A value that rounding moves across the kink has either gradient: leave those out.
    z = F.group_norm(inputs[0].double(), num_groups, *(t.double() for t in inputs[1:3]), 1e-5) + sum(
        inputs[3:]
    )
    grad_y = grad_y * (z.abs() > 0.1)

    def run(norm, to):
        leaves = [t.to(to).requires_grad_() for t in inputs]
        y = norm(*leaves)
        return [y, *torch.autograd.grad(y, leaves, grad_y.to(to))]

    for values in zip(run(ours, dtype), run(eager, dtype), run(eager, torch.float64), strict=True):
        assert_at_most_twice(*values)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_far_off_centre(memory_format):
    """Mean 500 times the standard deviation, where torch's channels-last kernel is 29 % off."""
    x = make_inputs((2, 16, 4, 14, 14), 500.0, torch.float32, memory_format)[0]
    y = group_norm(x, None, None, 8)
    torch.testing.assert_close(y.double(), F.group_norm(x.double(), 8), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.float16, torch.float64])
def test_statistics_are_at_least_fp32(dtype):
    x, weight, bias, *_ = make_inputs((2, 8, 2, 3, 3), dtype=dtype)
    y, mean, rstd = OP(x, weight, bias, None, 4, 1e-5, False)
    wide = torch.promote_types(dtype, torch.float32)
    assert (y.dtype, mean.dtype, rstd.dtype) == (dtype, wide, wide)
    torch.testing.assert_close(mean.double(), x.double().view(2, 4, -1).mean(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_dtype_and_memory_format_are_kept(dtype, memory_format):
    x, weight, bias, residual, grad_y = make_inputs((2, 8, 2, 3, 4), dtype=dtype, memory_format=memory_format)
    leaves = [x, weight.float(), bias, residual]
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = group_norm(x, leaves[1], bias, 4, residual=residual, relu=True)
    grads = torch.autograd.grad(y, leaves, grad_y)
    assert [t.dtype for t in (y, *grads)] == [dtype, dtype, torch.float32, dtype, dtype]
    for tensor in (y, grads[0], grads[3]):
        assert tensor.is_contiguous(memory_format=memory_format) and tensor.stride() == x.stride()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_clips_are_as_torchs(dtype, with_residual, relu):
    x, weight, bias, residual, _ = make_inputs((2, 8, 2, 3, 3), dtype=dtype)
    leaves = [
        t.requires_grad_() for t in (x[:0].detach(), weight.float(), bias.float(), residual[:0].detach())
    ]
    leaves = leaves[: 3 + with_residual]
    y = group_norm(*leaves[:3], 4, 1e-5, leaves[3] if with_residual else None, relu)
    grads = torch.autograd.grad(y.sum(), leaves)
    assert (y.shape, y.dtype) == (x[:0].shape, dtype)
    assert [g.shape for g in grads] == [t.shape for t in leaves]
    assert not any(g.any() for g in grads)  # of the parameters: zeros


@pytest.mark.parametrize("value", [0.1, 1 / 3, 100.1])
def test_a_constant_group(value):
    """The reference gives 0; on the CPU, at most what torch's own layer gives."""
    x = torch.full((2, 8, 3, 5, 5), value)
    assert group_norm_reference(x, None, None, None, 2, 1e-5, False)[0].abs().max() <= 1e-6
    torchs = F.group_norm(x, 2, torch.ones(8), torch.zeros(8))
    assert group_norm(x, None, None, 2).abs().max() <= torchs.abs().max() + 1e-6


def test_strided_input():
    x, weight, bias, residual, grad_y = make_inputs((4, 8, 4, 6, 6))
    views = [t[::2, :, 1:, ::2].requires_grad_() for t in (x, residual)]
    got = group_norm(views[0], weight, bias, 4, residual=views[1])
    want = definition(views[0], weight, bias, views[1], 4, relu=False)
    torch.testing.assert_close(got, want)
    grad_y = grad_y[::2, :, 1:, ::2]
    assert_same_gradients(got, want, views, grad_y)


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=3)))
def test_optional_arguments(present):
    """weight, bias and residual may each be None, in every combination."""
    x, *optional, grad_y = make_inputs((2, 6, 2, 3, 3), dtype=torch.float32)
    given = [t.requires_grad_() if p else None for t, p in zip(optional, present, strict=True)]
    leaves = [t for t in given if t is not None] or [x.requires_grad_()]
    y = group_norm(x, given[0], given[1], 3, residual=given[2])
    filled = [
        t if p else torch.full_like(t, default)
        for t, p, default in zip(optional, present, (1.0, 0.0, 0.0), strict=True)
    ]
    want = definition(x, *filled, 3, relu=False)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    assert_same_gradients(y, want, leaves, grad_y, rtol=1e-3, atol=1e-3)


def test_strided_parameters():
    """Of which torch 2.11 reads the memory between the numbers."""
    x, weight, bias, _, grad_y = make_inputs((2, 8, 2, 3, 3), dtype=torch.float32)
    weight, bias = torch.stack([weight, bias], 1).unbind(1)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    got, want = (
        group_norm(x, *parameters, 4, relu=True)
        for parameters in ((weight, bias), (weight.contiguous(), bias.contiguous()))
    )
    assert_same_gradients(got, want, leaves, grad_y, rtol=0, atol=0)
    assert torch.equal(got, want)


def test_any_number_of_sites():
    x, weight, bias, *_ = make_inputs((2, 8, 3, 4, 5))
    for view in (x, x.flatten(3), x.flatten(2), x[..., 0, 0, 0]):
        torch.testing.assert_close(group_norm(view, weight, bias, 4), F.group_norm(view, 4, weight, bias))


def test_residual_of_another_dtype():
    x, _, _, residual, _ = make_inputs((2, 8, 2, 3, 3), dtype=torch.bfloat16)
    y = group_norm(x, None, None, 4, residual=residual.float())
    assert torch.equal(y, group_norm(x, None, None, 4, residual=residual))


def test_relu_has_no_gradient_at_zero():
    x = make_inputs((2, 4, 1, 2, 2))[0].requires_grad_()
    residual = torch.zeros_like(x).requires_grad_()
    y = group_norm(x, torch.zeros(4, dtype=x.dtype), None, 2, residual=residual, relu=True)
    grads = torch.autograd.grad(y.sum(), [x, residual])
    assert all(not grad.any() for grad in grads)


def test_nan_and_inf_pass_through():
    x = make_inputs((2, 4, 1, 2, 2))[0]
    x[0, 0, 0, 0, 0], x[1, 3, 0, 1, 1] = float("nan"), float("inf")
    got, want = group_norm(x, None, None, 2, relu=True), F.relu(F.group_norm(x, 2))
    torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_gradcheck(relu, with_residual):
    *inputs, _ = make_inputs((2, 4, 2, 2, 1))
    inputs = [t.requires_grad_() for t in inputs[: 3 + with_residual]]
    assert torch.autograd.gradcheck(lambda x, w, b, r=None: group_norm(x, w, b, 2, 1e-5, r, relu), inputs)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_written_out_derivative_equals_autograd(relu, with_residual, memory_format):
    """The reference's, on the CPU and in float64."""
    x, weight, bias, residual, grad_y = make_inputs((2, 6, 2, 3, 4), memory_format=memory_format)
    leaves = [t.requires_grad_() for t in (x, weight, bias, residual)[: 3 + with_residual]]
    y, mean, rstd = group_norm_reference(*leaves, *[None] * (not with_residual), 3, 1e-5, relu)
    want = torch.autograd.grad(y, leaves, grad_y)
    wanted = [True, True, True, relu and with_residual]
    saved_y = y if relu and with_residual else None
    with torch.no_grad():
        got = _backward_reference(grad_y, x, weight, bias, mean, rstd, saved_y, 1e-5, relu, wanted)
    for grad, expected in zip(got[: sum(wanted)], want, strict=False):
        torch.testing.assert_close(grad, expected)
    for tensor in (y, *got[:4:3]):
        assert tensor.stride() == x.stride() or not tensor.numel()


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.float64])
def test_mask_made_of_x_is_the_mask_of_y(dtype, memory_format):
    """Without a residual the backward computes the ReLU's mask again: a ReLU of its own has the same bits."""
    x, weight, bias, _, grad_y = make_inputs((3, 16, 4, 7, 7), dtype=dtype, memory_format=memory_format)
    leaves = [t.requires_grad_() for t in (x, weight.float(), bias)]
    fused = group_norm(*leaves, 4, relu=True)
    separate = F.relu(group_norm(*leaves, 4))
    assert torch.equal(fused, separate)
    assert_same_gradients(fused, separate, leaves, grad_y, rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "add_relu"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("forward, apply", [(OP, APPLY_OP), (group_norm_reference, _apply_reference)])
def test_apply_makes_the_same_y_to_the_bit(forward, apply, memory_format, fused):
    x, weight, bias, residual, _ = make_inputs(
        (3, 16, 4, 7, 7), dtype=torch.float32, memory_format=memory_format
    )
    residual = residual if fused else None
    y, mean, rstd = forward(x, weight, bias, residual, 4, 1e-5, fused)
    again = apply(x, weight, bias, residual, mean, rstd, 1e-5, fused)
    assert torch.equal(y, again) and y.stride() == again.stride()


X = torch.zeros(2, 48, 1, 2, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(3), None, None, 1), r"x \(shape \(3,\)\) must have the dimensions \(B, C, ...\)"),
        ((X.long(), None, None, 1), r"x \(torch.int64\) must have one of the dtypes torch.float32, torch.fl"),
        ((X.cfloat(), None, None, 1), r"x \(torch.complex64\) must have one of the dtypes"),
        (
            (X.to(torch.float8_e4m3fn), None, None, 1),
            r"x \(torch.float8_e4m3fn\) must have one of the dtypes",
        ),
        (
            (X[:, :, :0], None, None, 1),
            r"x \(shape \(2, 48, 0, 2, 2\)\) must not be empty, but for the number",
        ),
        ((X, None, None, 32), r"num_groups \(32\) must divide num_channels \(48\)"),
        ((X, None, None, 0), r"num_groups \(0\) must divide num_channels \(48\)"),
        ((X, X[0, :6, 0, 0, 0], None, 1), r"weight \(shape \(6,\)\) must have the shape \(48,\)"),
        (
            (X, torch.zeros(48).half(), None, 1),
            r"weight \(torch.float16\) must have the dtype torch.float32 or",
        ),
        (
            (X.half(), None, torch.zeros(48).bfloat16(), 1),
            r"bias \(torch.bfloat16\) must .*\(torch.float16\)",
        ),
        (
            (X, torch.zeros(48).double(), None, 1),
            r"weight \(torch.float64\) must have the dtype torch.float32",
        ),
        ((X, None, None, 1, 1e-5, X.long()), r"residual \(torch.int64\) must have one of the dtypes"),
        ((X, None, X, 1), r"bias \(shape \(2, 48, 1, 2, 2\)\) must have the shape \(48,\)"),
        ((X, None, None, 1, 1e-5, X[:1]), r"residual \(shape \(1, .*\)\) must have the shape of x \(\(2, 48"),
        (
            (X, torch.zeros(48, device="meta"), None, 1),
            r"weight \(on meta\) must be on the device of x \(cpu\)",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        group_norm(*arguments)
