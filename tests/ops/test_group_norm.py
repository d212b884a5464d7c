import copy
import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from videonorm.ops import group_norm, group_norm_reference
from videonorm.ops.group_norm import _apply_reference, _backward_reference

ops = sys.modules["videonorm.ops.group_norm"]  # the name of the module is the function's, too

SHAPES = {  # ((B, C, T, H, W), G)
    "one_clip": ((1, 32, 4, 7, 7), 32),
    "one_group": ((2, 24, 2, 5, 5), 1),
    "odd_sizes": ((3, 15, 5, 3, 7), 5),
    "one_pixel": ((2, 64, 1, 1, 1), 16),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OP = torch.ops.videonorm.group_norm.default
APPLY_OP = torch.ops.videonorm.group_norm_apply.default
BACKWARD_OP = torch.ops.videonorm.group_norm_backward.default


def make_inputs(shape, mean=30.0, dtype=torch.float64, memory_format=torch.contiguous_format):
    """x, weight, bias, residual and grad_y, all of them exact in `dtype`."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    tensors = (mean + randn(*shape), 1 + randn(shape[1]), randn(shape[1]), randn(*shape), randn(*shape))
    return [
        t.to(dtype).contiguous(memory_format=memory_format) if t.dim() == 5 else t.to(dtype) for t in tensors
    ]


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
    grads = zip(
        torch.autograd.grad(got, leaves, grad_y), torch.autograd.grad(want, leaves, grad_y), strict=True
    )
    for grad, wanted in grads:
        torch.testing.assert_close(grad, wanted, rtol=1e-8, atol=1e-8)


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


def test_strided_input():
    x, weight, bias, residual, grad_y = make_inputs((4, 8, 4, 6, 6))
    views = [t[::2, :, 1:, ::2].requires_grad_() for t in (x, residual)]
    got = group_norm(views[0], weight, bias, 4, residual=views[1])
    want = definition(views[0], weight, bias, views[1], 4, relu=False)
    torch.testing.assert_close(got, want)
    grad_y = grad_y[::2, :, 1:, ::2]
    for grad, wanted in zip(
        torch.autograd.grad(got, views, grad_y), torch.autograd.grad(want, views, grad_y), strict=True
    ):
        torch.testing.assert_close(grad, wanted)


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
    for grad, wanted in zip(
        torch.autograd.grad(y, leaves, grad_y), torch.autograd.grad(want, leaves, grad_y), strict=True
    ):
        torch.testing.assert_close(grad, wanted, rtol=1e-3, atol=1e-3)


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
@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.float64])
def test_mask_made_of_x_is_the_mask_of_y(dtype, memory_format):
    """Without a residual the backward computes the ReLU's mask again: a ReLU of its own has the same bits."""
    x, weight, bias, _, grad_y = make_inputs((3, 16, 4, 7, 7), dtype=dtype, memory_format=memory_format)
    leaves = [t.requires_grad_() for t in (x, weight.float(), bias)]
    fused = group_norm(*leaves, 4, relu=True)
    separate = F.relu(group_norm(*leaves, 4))
    assert torch.equal(fused, separate)
    for got, want in zip(
        torch.autograd.grad(fused, leaves, grad_y), torch.autograd.grad(separate, leaves, grad_y), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "add_relu"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("forward, apply", [(OP, APPLY_OP), (group_norm_reference, _apply_reference)])
def test_apply_makes_the_same_y_to_the_bit(forward, apply, memory_format, fused):
    x, weight, bias, residual, _ = make_inputs(
        (3, 16, 4, 7, 7), dtype=torch.float32, memory_format=memory_format
    )
    residual = residual if fused else None
    y, mean, rstd = forward(x, weight, bias, residual, 4, 1e-5, fused)
    again = apply(x, weight, bias, residual, mean, rstd, 4, 1e-5, fused)
    assert torch.equal(y, again) and y.stride() == again.stride()


def test_apply_is_not_differentiable():
    x = make_inputs((2, 4, 1, 2, 2))[0].requires_grad_()
    _, mean, rstd = OP(x, None, None, None, 2, 1e-5, False)
    y = APPLY_OP(x, None, None, None, mean, rstd, 2, 1e-5, False)
    with pytest.raises(NotImplementedError, match="videonorm::group_norm_apply is not differentiable"):
        y.sum().backward()


def test_double_backward_is_refused():
    x = make_inputs((2, 4, 1, 2, 2))[0].requires_grad_()
    (grad,) = torch.autograd.grad(group_norm(x, None, None, 2).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="videonorm::group_norm is differentiable once"):
        grad.sum().backward()


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_opcheck(memory_format):
    x, weight, bias, residual, grad_y = make_inputs((2, 4, 2, 3, 2), 0.0, torch.float32, memory_format)
    leaves = [t.requires_grad_() for t in (x, weight, bias, residual)]
    torch.library.opcheck(OP, (*leaves, 2, 1e-5, True))
    torch.library.opcheck(OP, (x.detach().bfloat16().requires_grad_(), None, bias, None, 2, 1e-5, False))
    y, mean, rstd = (t.detach() for t in OP(*leaves, 2, 1e-5, True))
    x, weight, bias, residual = (t.detach() for t in leaves)
    torch.library.opcheck(APPLY_OP, (x, weight, bias, residual, mean, rstd, 2, 1e-5, True))
    torch.library.opcheck(APPLY_OP, (x, None, None, None, mean, rstd, 2, 1e-5, False))
    backward = (grad_y, x, weight, bias, mean, rstd)
    torch.library.opcheck(BACKWARD_OP, (*backward, y, 2, 1e-5, True, [True] * 4))
    torch.library.opcheck(BACKWARD_OP, (*backward, None, 2, 1e-5, True, [True, True, True, False]))
    torch.library.opcheck(BACKWARD_OP, (*backward, None, 2, 1e-5, False, [True, False, True, False]))


@pytest.mark.parametrize("with_residual", [False, True])
def test_compile(with_residual):
    *inputs, grad_y = make_inputs((2, 4, 2, 3, 3), dtype=torch.float32, memory_format=torch.channels_last_3d)
    leaves = [t.requires_grad_() for t in inputs[: 3 + with_residual]]

    def block(x, weight, bias, residual=None):
        return 2 * group_norm(x + 1, weight, bias, 2, residual=residual, relu=True)

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for got, want in zip(
        torch.autograd.grad(compiled(*leaves), leaves, grad_y),
        torch.autograd.grad(block(*leaves), leaves, grad_y),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant):
    *inputs, grad_y = make_inputs((2, 4, 2, 3, 3), dtype=torch.float32)
    leaves = [t.requires_grad_() for t in inputs]

    def block(x, weight, bias, residual):
        y = group_norm(x, weight, bias, 2, relu=True)
        return group_norm(y.square(), weight, bias, 2, residual=residual, relu=True)

    checkpointed = checkpoint(block, *leaves, use_reentrant=use_reentrant)
    for got, want in zip(
        torch.autograd.grad(block(*leaves), leaves, grad_y),
        _gradients_by_backward(checkpointed, leaves, grad_y),
        strict=True,
    ):
        assert torch.equal(got, want)


def _gradients_by_backward(y, leaves, grad_y):
    """Reentrant checkpointing does not take `torch.autograd.grad`."""
    y.backward(grad_y)
    return [leaf.grad for leaf in leaves]


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(torch.randn(4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = group_norm(x, self.weight, self.bias, 2, relu=True)
        return group_norm(x, self.weight, self.bias, 2, residual=y, relu=True)


def test_ddp(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        torch.manual_seed(0)
        alone = Block()
        parallel = DistributedDataParallel(copy.deepcopy(alone))
        x = torch.randn(4, 4, 2, 3, 3)
        for layer in (alone, parallel):
            layer(x).square().mean().backward()
        for got, want in zip(parallel.parameters(), alone.parameters(), strict=True):
            assert torch.equal(got.grad, want.grad)
    finally:
        torch.distributed.destroy_process_group()


class Layer(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return group_norm(x, weight, None, 2, relu=True)


def test_export_with_dynamic_shape_and_without_the_operator():
    x, weight, *_ = make_inputs((2, 4, 3, 4, 4), dtype=torch.float32)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    program = torch.export.export(
        Layer(), (x, weight), dynamic_shapes={"x": {0: batch, 2: time}, "weight": {}}
    )
    longer = make_inputs((5, 4, 7, 4, 4), dtype=torch.float32)[0]
    want = group_norm(longer, weight, None, 2, relu=True)
    assert "videonorm.group_norm" in str(program.graph)
    torch.testing.assert_close(program.module()(longer, weight), want)
    standard = program.run_decompositions({OP: group_norm_reference})
    assert "videonorm" not in str(standard.graph)
    torch.testing.assert_close(standard.module()(longer, weight), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_little_is_saved_for_backward(relu, with_residual):
    """x and the statistics; for the mask y, which the next convolution keeps as well, or else the bias."""
    x, weight, bias, residual, _ = make_inputs((2, 8, 2, 4, 4), dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (x, weight, bias, residual)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        group_norm(x, *leaves[1:3], 4, residual=residual if with_residual else None, relu=relu)
    mask = [x.numel() if with_residual else 8] * relu
    assert sorted(saved) == sorted([x.numel(), 8, 2 * 4, 2 * 4] + mask)


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
        got = _backward_reference(grad_y, x, weight, bias, mean, rstd, saved_y, 3, 1e-5, relu, wanted)
    for grad, expected in zip(got[: sum(wanted)], want, strict=False):
        torch.testing.assert_close(grad, expected)
    for tensor in (y, *got[:4:3]):
        assert tensor.stride() == x.stride() or not tensor.numel()


def test_fake_cuda_tensors():
    """bf16 x and fp32 weight in, bf16 y out, in x's memory format."""
    with FakeTensorMode():
        x = torch.empty(2, 8, 4, 7, 7, device="cuda", dtype=torch.bfloat16).to(
            memory_format=torch.channels_last_3d
        )
        weight = torch.empty(8, device="cuda", requires_grad=True)
        y = group_norm(x, weight, weight, 4, relu=True)
        assert (y.device.type, y.dtype, y.stride()) == ("cuda", torch.bfloat16, x.stride())


class Kernels:
    """In place of `videonorm.kernels.group_norm`: it wants what the kernels want, and computes on the CPU."""

    @staticmethod
    def check(x, weight, bias, *others):
        assert x.is_contiguous() or x.movedim(1, -1).is_contiguous()
        assert all(t is None or t.is_contiguous() for t in (weight, bias))
        assert all(t is None or t.stride() == x.stride() for t in others)

    def forward(self, machine, x, weight, bias, residual, num_groups, eps, relu):
        self.check(x, weight, bias, residual)
        y, mean, rstd = group_norm_reference(x, weight, bias, residual, num_groups, eps, relu)
        return torch.empty_like(x).copy_(y), mean, rstd

    def apply(self, machine, x, weight, bias, residual, mean, rstd, relu):
        self.check(x, weight, bias, residual)
        y = _apply_reference(x, weight, bias, residual, mean, rstd, mean.shape[1], 0.0, relu)
        return torch.empty_like(x).copy_(y)

    def backward(self, machine, grad_y, x, weight, bias, mean, rstd, y, relu, wanted):
        self.check(x, weight, bias, grad_y, y)
        return _backward_reference(
            grad_y,
            x,
            weight,
            bias,
            mean,
            rstd,
            y,
            mean.shape[1],
            0.0,
            relu,
            [True, True, True, y is not None],
        )


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "transposed": lambda x: x.transpose(2, 4).contiguous().transpose(2, 4),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "strided_channels_last": lambda x: x.repeat(1, 2, 1, 1, 1).contiguous(
        memory_format=torch.channels_last_3d
    )[:, : x.shape[1]],
    "one_site": lambda x: x[..., :1, :1, :1],
    "four_dimensions": lambda x: x[:, :, 0].contiguous(memory_format=torch.channels_last),
    "three_dimensions": lambda x: x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2),
    "two_dimensions": lambda x: x[:, :, 0, 0, 0],
}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "add_relu"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_kernels_get_dense_memory(layout, fused, monkeypatch):
    """And the operator's results have the strides that its fake promises."""
    monkeypatch.setattr(ops, "kernels", Kernels())
    monkeypatch.setattr(ops, "gpu", lambda device: None)
    x, weight, bias, residual, grad_y = make_inputs((2, 6, 3, 2, 4))
    x = layout(x)
    residual, grad_y = (
        t[tuple(map(slice, x.shape))] if x.dim() == 5 else torch.randn_like(x).double()
        for t in (residual, grad_y)
    )
    weight, bias = weight[:1].expand(6), torch.stack([bias, bias], 1)[:, 0]
    residual = residual if fused else None

    inputs = (x, weight, bias, residual, 3, 1e-5, fused)
    y, mean, rstd = ops._forward_cuda(*inputs)
    again = ops._apply_cuda(x, weight, bias, residual, mean, rstd, 3, 1e-5, fused)
    saved = (grad_y, x, weight, bias, mean, rstd, y if fused else None, 3, 1e-5, fused)
    wanted = [True, False, True, fused]
    want = (
        *group_norm_reference(*inputs)[:1],
        _apply_reference(x, weight, bias, residual, mean, rstd, 3, 1e-5, fused),
        *_backward_reference(*saved, wanted),
    )
    got = (y, again, *ops._backward_cuda(*saved, wanted))
    fake = (*ops._fake(*inputs)[:1], ops._fake_apply(x), *ops._fake_backward(*saved, wanted))
    for one, expected, promised in zip(got, want, fake, strict=True):
        torch.testing.assert_close(one, expected)
        assert one.stride() == promised.stride()


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
        ((X[:0], None, None, 1), r"x \(shape \(0, 48, 1, 2, 2\)\) must not be empty"),
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
