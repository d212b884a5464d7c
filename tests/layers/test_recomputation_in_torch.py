"""`recompute` beside what else of torch decides what is kept: checkpoints, hooks, compilers."""

import threading
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from videonorm.layers import MaxPool3d, recompute
from videonorm.models import ResNet3d

from .stack import (
    Watched,
    assert_gradients,
    assert_same,
    backward,
    gradients,
    group_norm,
    make_clips,
    make_stack,
)


@pytest.mark.parametrize("place", ["inside", "outside", "between"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant, place):
    stack = make_stack()
    want = gradients(stack, make_clips())
    run = partial(checkpoint, use_reentrant=use_reentrant)

    def option(x: Tensor) -> Tensor:
        with recompute("norms"):
            return stack(x)

    clips = make_clips().requires_grad_()  # which reentrant checkpointing asks for
    watched = Watched(*stack)
    if place == "inside":
        with recompute("norms"):
            y = stack[4](run(stack[1:4], stack[0](clips)))
    elif place == "outside":
        y = run(option, clips)
        assert watched.num_kept() == 1  # the logits
    else:
        with recompute("norms"):
            y = run(option, clips)
    backward(y)
    assert_gradients(stack, want)


def test_inside_other_hooks():
    """They get what is kept, and here put it elsewhere."""
    stack = make_stack()
    want = gradients(stack, make_clips())
    watched = Watched(*stack)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda copied: copied), recompute("norms"):
        y = stack(make_clips())
    assert watched.num_kept() == 1  # y
    backward(y)
    assert_gradients(stack, want)


def test_backward_in_another_thread():
    stack = make_stack()
    want = gradients(stack, make_clips())
    with recompute("norms"):
        y = stack(make_clips())
    thread = threading.Thread(target=y.square().mean().backward)
    thread.start()
    thread.join()
    assert_gradients(stack, want)


def test_backward_inside_and_twice():
    stack = make_stack()
    want = gradients(stack, make_clips())
    with recompute("norms"):
        loss = stack(make_clips()).square().mean()
        loss.backward(retain_graph=True)
    assert_gradients(stack, want)
    loss.backward()
    assert_same([p.grad for p in stack.parameters()], [2 * grad for grad in want])


def test_autocast_keeps_no_fp32():
    stack = make_stack()
    dtypes = set()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dim() == 5 and tensor.shape[0] == 2:
            dtypes.add(tensor.dtype)
        return tensor.detach()

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, recompute("norms"), torch.autocast("cpu", torch.bfloat16):
        y = stack(make_clips())
    assert dtypes == {torch.bfloat16}
    y.sum().backward()


def test_fake_tensors():
    with FakeTensorMode():
        stack = make_stack()
        watched = Watched(stack[1], stack[3])
        with recompute("norms"):
            y = stack(torch.empty(2, 3, 4, 6, 6))
        assert watched.num_kept() == 0
        y.sum().backward()
        assert all(p.grad.shape == p.shape for p in stack.parameters())


@pytest.mark.parametrize("what", ["norms", "blocks_8bit"])
def test_forward_mode(what):
    """Of a network that backward could be asked of as well."""
    stack = make_stack()
    stack.insert(2, MaxPool3d(2))
    clips, tangents = make_clips(), []
    for option in ("none", what):
        with recompute(option), forward_ad.dual_level():
            y = stack(forward_ad.make_dual(clips, clips.flip(0)))
            tangents.append(forward_ad.unpack_dual(y).tangent)
    assert torch.equal(*tangents)


def test_compile_and_export():
    torch.manual_seed(0)
    model = ResNet3d(10, "i3d", 5, norm=group_norm, width=8, recompute="blocks")
    clips = make_clips(2, 3, 4, 16, 16)
    want = gradients(model, clips)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(clips).square().mean().backward()
    for parameter, grad in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)
    program = torch.export.export(model.eval(), (clips,))
    torch.testing.assert_close(program.module()(clips), model(clips))


def test_compiled_part():
    """A compiled model in the context: the compiler has decided, and its graph keeps what it keeps."""
    stack = make_stack()
    want = gradients(stack, make_clips())
    compiled = torch.compile(stack, backend="aot_eager", fullgraph=True)
    with recompute("norms"):
        y = compiled(make_clips())
    backward(y)
    for parameter, grad in zip(stack.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
