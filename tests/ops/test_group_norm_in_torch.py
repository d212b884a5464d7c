"""What torch makes of the operator: autograd, torch.compile, torch.export, checkpoints, DDP."""

import copy

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from videonorm.ops import DECOMPOSITIONS
from videonorm.ops.group_norm import group_norm

from .group_norm_inputs import APPLY_OP, FORMATS, OP, assert_same_gradients, make_inputs

BACKWARD_OP = torch.ops.videonorm.group_norm_backward.default


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_opcheck(memory_format):
    x, weight, bias, residual, grad_y = make_inputs((2, 4, 2, 3, 2), 0.0, torch.float32, memory_format)
    leaves = [t.requires_grad_() for t in (x, weight, bias, residual)]
    torch.library.opcheck(OP, (*leaves, 2, 1e-5, True))
    torch.library.opcheck(OP, (x.detach().bfloat16().requires_grad_(), None, bias, None, 2, 1e-5, False))
    y, mean, rstd = (t.detach() for t in OP(*leaves, 2, 1e-5, True))
    x, weight, bias, residual = (t.detach() for t in leaves)
    torch.library.opcheck(APPLY_OP, (x, weight, bias, residual, mean, rstd, 1e-5, True))
    torch.library.opcheck(APPLY_OP, (x, None, None, None, mean, rstd, 1e-5, False))
    backward = (grad_y, x, weight, bias, mean, rstd)
    torch.library.opcheck(BACKWARD_OP, (*backward, y, 1e-5, True, [True] * 4))
    torch.library.opcheck(BACKWARD_OP, (*backward, None, 1e-5, True, [True, True, True, False]))
    torch.library.opcheck(BACKWARD_OP, (*backward, None, 1e-5, False, [True, False, True, False]))


def test_apply_is_not_differentiable():
    x = make_inputs((2, 4, 1, 2, 2))[0].requires_grad_()
    _, mean, rstd = OP(x, None, None, None, 2, 1e-5, False)
    y = APPLY_OP(x, None, None, None, mean, rstd, 1e-5, False)
    with pytest.raises(NotImplementedError, match="videonorm::group_norm_apply is not differentiable"):
        y.sum().backward()


def test_double_backward_is_refused():
    x = make_inputs((2, 4, 1, 2, 2))[0].requires_grad_()
    (grad,) = torch.autograd.grad(group_norm(x, None, None, 2).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="videonorm::group_norm is differentiable once"):
        grad.sum().backward()


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


@pytest.mark.parametrize("with_residual", [False, True])
def test_compile(with_residual):
    *inputs, grad_y = make_inputs((2, 4, 2, 3, 3), dtype=torch.float32, memory_format=torch.channels_last_3d)
    leaves = [t.requires_grad_() for t in inputs[: 3 + with_residual]]

    def block(x, weight, bias, residual=None):
        return 2 * group_norm(x + 1, weight, bias, 2, residual=residual, relu=True)

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    assert_same_gradients(compiled(*leaves), block(*leaves), leaves, grad_y)


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
    standard = program.run_decompositions(DECOMPOSITIONS)
    assert "videonorm" not in str(standard.graph)
    torch.testing.assert_close(standard.module()(longer, weight), want, rtol=1e-4, atol=1e-4)


def test_fake_cuda_tensors():
    """bf16 x and fp32 weight in, bf16 y out, in x's memory format."""
    with FakeTensorMode():
        x = torch.empty(2, 8, 4, 7, 7, device="cuda", dtype=torch.bfloat16).to(
            memory_format=torch.channels_last_3d
        )
        weight = torch.empty(8, device="cuda", requires_grad=True)
        y = group_norm(x, weight, weight, 4, relu=True)
        assert (y.device.type, y.dtype, y.stride()) == ("cuda", torch.bfloat16, x.stride())
