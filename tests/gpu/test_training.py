"""A network with our kernels in it, against the same with PyTorch's operations."""

import copy
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers import GroupNorm3d, Recompute, WSConv3d
from videonorm.models import ResNet3d
from videonorm.ops import use


def make_model(**options) -> nn.Module:
    torch.manual_seed(0)
    parts = {"norm": lambda channels: GroupNorm3d(channels, 8), "conv": WSConv3d}
    model = ResNet3d(18, "r3d", 5, width=16, zero_init_residual=False, **parts, **options)
    return model.cuda().to(memory_format=torch.channels_last_3d)


def make_clips() -> tuple[Tensor, Tensor]:
    clips = torch.randn(2, 3, 8, 64, 64, device="cuda")
    return clips.contiguous(memory_format=torch.channels_last_3d), torch.tensor([1, 4], device="cuda")


def gradients(model: nn.Module, clips: Tensor, labels: Tensor) -> list[Tensor]:
    loss = F.cross_entropy(model(clips), labels)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def test_loss_and_gradients_are_the_reference_s(full_precision):
    model, (clips, labels) = make_model(), make_clips()
    got = gradients(model, clips, labels)
    with use("reference"):
        eager = gradients(model, clips, labels)
        exact = gradients(copy.deepcopy(model).double(), clips.double(), labels)

    def distance(values: list[Tensor]) -> float:
        squares = [
            ((value.double() - want).norm() / want.norm()) ** 2
            for value, want in zip(values, exact, strict=True)
        ]
        return float(torch.stack(squares).mean().sqrt())

    assert distance(got) < 2 * distance(eager) + 1e-6


def test_recomputation_changes_no_bit(full_precision):
    clips, labels = make_clips()
    kept = gradients(make_model(), clips, labels)
    for what in ("norms", "blocks"):
        assert all(map(torch.equal, kept, gradients(make_model(recompute=what), clips, labels)))


def test_error_of_8_bits(full_precision):
    clips, labels = make_clips()
    want, got = (gradients(make_model(recompute=what), clips, labels) for what in ("none", "blocks_8bit"))
    assert torch.equal(got[0], want[0])
    difference = [(one - other).norm() for one, other in zip(got, want, strict=True)]
    assert torch.stack(difference).norm() < 0.01 * torch.stack([grad.norm() for grad in want]).norm()


@pytest.mark.parametrize("recompute", get_args(Recompute))
def test_a_bf16_step_learns(recompute):
    model, (clips, labels) = make_model(recompute=recompute), make_clips()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_recomputation_saves_memory():
    clips, labels = make_clips()
    kept = []
    for recompute in ("none", "norms", "blocks", "blocks_8bit"):
        model = make_model(recompute=recompute)
        with torch.autocast("cuda", torch.bfloat16):
            model(clips)  # so that algorithms are chosen
            before = torch.cuda.memory_allocated()
            loss = F.cross_entropy(model(clips), labels)
        kept.append(torch.cuda.memory_allocated() - before)
        del loss, model
    assert kept[3] < 0.7 * kept[2] < 0.7 * 0.8 * kept[1] < 0.7 * 0.8 * 0.85 * kept[0]
