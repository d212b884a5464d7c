"""`recompute` behind residuals: chains of outputs, each made of the one before it."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from videonorm.layers import InstanceNorm3d, MaxPool3d, WSConv3d, recompute, recomputed_group_norm
from videonorm.layers.recomputation import LONGEST_CHAIN
from videonorm.models import ResNet3d, ResNetV2_3d

from .stack import Watched, assert_gradients, assert_same, backward, gradients, group_norm, make_clips

blocks = partial(recompute, "blocks")


class Block(nn.Module):
    """relu(norm(conv(x)) + x)"""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm = group_norm(channels, activation="relu")
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x), x)


def make_chain(length: int) -> nn.Sequential:
    """A convolution, so many blocks, a convolution."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 8, 1), *(Block() for _ in range(length)), nn.Conv3d(8, 4, 1))


@pytest.mark.parametrize("length", [1, LONGEST_CHAIN, LONGEST_CHAIN + 1, 2 * LONGEST_CHAIN + 3])
def test_the_last_of_a_long_chain_is_kept(length):
    chain = make_chain(length)
    want = gradients(chain, make_clips())
    watched = Watched(*chain[1:-1])
    with blocks():
        y = chain(make_clips())
    assert watched.num_kept() == length // (LONGEST_CHAIN + 1)
    backward(y)
    assert_gradients(chain, want)


def test_at_most_three_outputs_of_a_chain_are_in_memory_together(monkeypatch):
    """The one asked for, the one it is made of, and the one that waits for its ReLU."""
    chain = make_chain(LONGEST_CHAIN)
    made, most = Watched(), 0

    def watch(apply):
        def watched(*args):
            nonlocal most
            y = apply(*args)
            made.note(y)
            most = max(most, made.num_kept())
            return y

        return watched

    monkeypatch.setattr(recomputed_group_norm, "_make", watch(recomputed_group_norm._make))
    with blocks():
        y = chain(make_clips())
    backward(y)
    assert most <= 3
    assert len(made.outputs) == LONGEST_CHAIN * (LONGEST_CHAIN + 1) / 2  # once each, and what leads to it
    del y
    assert made.num_kept() == 0


@pytest.mark.parametrize(
    "make",
    [
        partial(ResNet3d, 10, "i3d", 5, group_norm, WSConv3d, width=8, zero_init_residual=False),
        partial(ResNet3d, 10, "r2plus1d_pooled", 5, InstanceNorm3d, width=8),
        partial(ResNetV2_3d, 50, "i3d", 5, norm=InstanceNorm3d, width=4),
    ],
    ids=["i3d", "r2plus1d", "resnetv2"],
)
def test_gradients_under_autocast_are_the_same_to_the_bit(make):
    """Where a CPU pools in fp32 what is bf16 before and behind."""
    torch.manual_seed(0)
    model = make()
    clips = make_clips(2, 3, 2, 16, 16)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    want = gradients(model, clips, autocast)
    for model.recompute in ("norms", "blocks"):
        assert_same(gradients(model, clips, autocast), want)


def test_an_output_used_twice_and_pooled():
    torch.manual_seed(0)
    first, second, pool = Block(), Block(), MaxPool3d(2)

    class Used(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.pool = first, second, pool
            self.last, self.other = nn.Conv3d(8, 4, 1), nn.Conv3d(8, 4, 1)

        def forward(self, x):
            y = self.second(self.first(x))
            return self.last(self.pool(y)) + self.other(self.pool(y)) + self.other(y).mean()

    model, clips = Used(), make_clips(2, 8, 4, 6, 6)
    want = gradients(model, clips)
    watched, pooled = Watched(first, second), Watched(pool)
    with blocks():
        y = model(clips)
    assert watched.num_kept() == 0
    assert pooled.num_kept() == 2
    backward(y)
    assert_gradients(model, want)


class Added(nn.Module):
    """A chain with something added to the output of its first block."""

    def __init__(self, add) -> None:
        super().__init__()
        self.chain, self.add = make_chain(2), add

    def forward(self, x: Tensor) -> Tensor:
        head, first, second, last = self.chain
        return last(second(self.add(first(head(x)), 1)))


def test_an_output_that_is_changed_in_place():
    """It is another one then, and kept; the one before the change can still be made for its ReLU."""
    want = gradients(Added(torch.add), make_clips())
    model = Added(Tensor.add_)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(model, make_clips())
    watched = Watched(*model.chain[1:3])
    with blocks():
        y = model(make_clips())
    assert watched.num_kept() == 1
    backward(y)
    assert_gradients(model, want)


def test_a_change_in_place_before_backward_is_an_error():
    chain = make_chain(3)
    with blocks():
        y = chain(make_clips())
    with torch.no_grad():
        chain[1].norm.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_frozen_parts_and_no_grad():
    chain = make_chain(4)
    chain[:3].requires_grad_(False)
    want = [grad for grad in gradients(chain, make_clips()) if grad is not None]
    assert_same([grad for grad in gradients(chain, make_clips(), blocks) if grad is not None], want)
    watched = Watched(*chain)
    with blocks(), torch.no_grad():
        chain(make_clips())
    assert watched.num_kept() == 0


def test_backward_in_parts_and_again():
    chain = make_chain(3)
    want = gradients(chain, make_clips())
    with blocks():
        loss = chain(make_clips()).square().mean()
    parameters = list(chain.parameters())
    half = len(parameters) // 2
    later = torch.autograd.grad(loss, parameters[half:], retain_graph=True)
    sooner = torch.autograd.grad(loss, parameters[:half], retain_graph=True)
    assert_same([*sooner, *later], want)
    assert_same(torch.autograd.grad(loss, parameters), want)


@pytest.mark.parametrize("place", ["inside", "outside", "around"])
@pytest.mark.parametrize("what", ["blocks", "blocks_8bit"])
def test_activation_checkpointing(place, what):
    chain = make_chain(4)
    plain = copy.deepcopy(chain)
    with recompute(what):
        want = plain(make_clips())
    backward(want)
    run = partial(checkpoint, use_reentrant=False)

    def option(x: Tensor) -> Tensor:
        with recompute(what):
            return chain(x)

    if place == "inside":
        with recompute(what):
            y = chain[5](run(chain[2:5], chain[1](chain[0](make_clips()))))
    elif place == "outside":
        y = run(option, make_clips())
    else:
        with recompute(what):
            y = run(option, make_clips())
    backward(y)
    exact = what == "blocks" or place == "outside"
    for parameter, other in zip(chain.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad, other.grad, rtol=0, atol=0 if exact else 0.03 * float(other.grad.norm())
        )


@pytest.mark.parametrize("what", ["blocks", "blocks_8bit"])
def test_save_on_cpu(what):
    chain = make_chain(3)
    want = gradients(chain, make_clips(), partial(recompute, what))
    with torch.autograd.graph.save_on_cpu(), recompute(what):
        y = chain(make_clips())
    backward(y)
    assert_gradients(chain, want)


def test_hooks_that_look_on():
    """As those of diagnostics: forward hooks that see outputs, backward hooks that see gradients."""
    chain = make_chain(3)
    want = gradients(chain, make_clips())
    seen = []
    for block in chain[1:4]:
        block.norm.register_forward_hook(lambda module, args, y: seen.append(y.detach().mean()))
        block.register_full_backward_hook(lambda module, grad_x, grad_y: seen.append(grad_y[0].mean()))
        block.norm.weight.register_hook(lambda grad: seen.append(grad.mean()))
    watched = Watched(*chain[1:4])
    with blocks():
        y = chain(make_clips())
    assert watched.num_kept() == 0
    backward(y)
    assert len(seen) == 9
    assert_gradients(chain, want)


def test_fp16_and_a_scaled_loss():
    model = ResNet3d(10, "r3d", 5, norm=group_norm, width=8)
    clips, results = make_clips(2, 3, 2, 12, 12), []
    for model.recompute in ("none", "blocks"):
        for scale in (2.0**8, 2.0**60):
            twin = copy.deepcopy(model)
            optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            with torch.autocast("cpu", torch.float16):
                loss = twin(clips).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            results.append([*twin.parameters(), torch.tensor(scaler.get_scale() / scale)])
    assert_same(results[2], results[0])
    assert_same(results[3], results[1])
    assert results[1][-1] == 0.5 and results[0][-1] == 1  # the second overflows, and is left out


@pytest.mark.parametrize("static_graph", [False, True])
def test_ddp(static_graph):
    model = ResNet3d(10, "r3d", 5, norm=group_norm, width=8)
    clips = make_clips(2, 3, 2, 12, 12)
    want = gradients(model, clips)
    model.recompute = "blocks"
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(model, static_graph=static_graph)
        for _ in range(2):
            parallel.zero_grad()
            backward(parallel(clips))
    finally:
        dist.destroy_process_group()
    assert_gradients(model, want)
