"""The gradients of a network whose activations wait for backward in 8 bits, and what it learns with them."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.layers import MaxPool3d, WSConv3d, recompute
from videonorm.models import ResNet3d, ResNetV2_3d, VGG3d

from .stack import Watched, backward, gradients, group_norm, make_clips, make_stack

LARGEST_ERROR = 0.01  # of all gradients together: norm of the difference over their norm
MODELS = {
    "i3d": partial(ResNet3d, 50, "i3d", 5, group_norm, WSConv3d, width=8, zero_init_residual=False),
    "r3d": partial(ResNet3d, 18, "r3d", 5, group_norm, width=8, zero_init_residual=False),
    "resnetv2": partial(ResNetV2_3d, 50, "i3d", 5, norm=group_norm, width=8),
    "vgg": partial(VGG3d, 11, 5, group_norm, width=8, dropout=0.0),
}


def relative_error(got: list[Tensor], want: list[Tensor]) -> float:
    differences = torch.stack([(one - other).norm() for one, other in zip(got, want, strict=True)])
    return float(differences.norm() / torch.stack([grad.norm() for grad in want]).norm())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "r3d")) for name in MODELS]
)
def test_error_of_gradients(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    clips = make_clips(2, 3, 4, 24, 24)
    want = gradients(model, clips)
    for model.recompute in ("blocks_8bit", "blocks_8bit_stochastic"):
        got = gradients(model, clips)
        assert 0 < relative_error(got, want) < LARGEST_ERROR
        for one, other in zip(got, want, strict=True):
            assert (one - other).norm() < 5 * LARGEST_ERROR * other.norm()


def test_forward_is_as_ever():
    model, clips = MODELS["r3d"](), make_clips(2, 3, 2, 12, 12)
    want = model(clips)
    model.recompute = "blocks_8bit"
    assert torch.equal(model(clips), want)


def test_relus_and_pools_pass_back_what_they_passed():
    """A pool behind a norm whose gradient does not depend on its x: exact, as masks and places are."""
    x = make_clips(2, 8, 4, 6, 6)
    norm, pool = group_norm(8, activation="relu"), MaxPool3d(2, 1)
    grads = []
    for what in ("none", "blocks_8bit"):
        bias, residual = norm.bias, x.flip(1).requires_grad_()
        with recompute(what):
            y = pool(norm(x, residual))
        grads.append(torch.autograd.grad(y.square().sum(), (bias, residual)))
    for exact, got in zip(*grads, strict=True):
        torch.testing.assert_close(got, exact)


def test_a_norm_of_a_norm_keeps_one_x():
    stack = make_stack()
    stack.insert(2, group_norm(8))
    watched = Watched(*stack[:-1])
    with recompute("blocks_8bit"):
        y = stack(make_clips())
    assert watched.num_kept() == 0
    backward(y)
    got = [parameter.grad for parameter in stack.parameters()]
    assert relative_error(got, gradients(copy.deepcopy(stack), make_clips())) < LARGEST_ERROR


def make_motion(num_clips: int) -> tuple[Tensor, Tensor]:
    """A bright square that moves left, right, up or down, in noise."""
    rng = torch.Generator().manual_seed(0)
    ways = torch.tensor([(0, -1), (0, 1), (-1, 0), (1, 0)])
    labels = torch.arange(num_clips) % 4
    frame = torch.zeros(1, 12, 12)
    frame[:, 4:8, 4:8] = 3
    clips = [
        torch.stack([frame.roll(tuple((t * ways[label]).tolist()), (1, 2)) for t in range(4)], dim=1)
        for label in labels
    ]
    noise = torch.randn(num_clips, 3, 4, 12, 12, generator=rng)
    return torch.stack(clips) + noise, labels


@pytest.mark.parametrize(
    "what", ["blocks_8bit", pytest.param("blocks_8bit_stochastic", marks=pytest.mark.slow)]
)
def test_training_reaches_the_same_loss(what):
    clips, labels = make_motion(16)
    losses = {}
    for option in ("none", what):
        torch.manual_seed(0)
        model = ResNet3d(10, "r3d", 4, group_norm, WSConv3d, width=8, recompute=option)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        losses[option] = []
        for _ in range(12):
            loss = F.cross_entropy(model(clips), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[option].append(loss.item())
    exact, got = losses.values()
    assert got[0] == exact[0]
    assert exact[-1] < 0.5 * exact[0]
    assert got[-1] == pytest.approx(exact[-1], abs=0.05 * exact[0])
