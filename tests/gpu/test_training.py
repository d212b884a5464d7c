"""A network with our kernels in it, against the same with PyTorch's operations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers import GroupNorm3d, WSConv3d
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


def test_recomputed_norms_change_no_bit(full_precision):
    clips, labels = make_clips()
    kept = gradients(make_model(), clips, labels)
    recomputed = gradients(make_model(recompute_norms=True), clips, labels)
    assert all(map(torch.equal, kept, recomputed))


@pytest.mark.parametrize("recompute_norms", [False, True])
def test_a_bf16_step_learns(recompute_norms):
    model, (clips, labels) = make_model(recompute_norms=recompute_norms), make_clips()
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


def test_recomputed_norms_save_memory():
    clips, labels = make_clips()
    kept = []
    for recompute_norms in (False, True):
        model = make_model(recompute_norms=recompute_norms)
        with torch.autocast("cuda", torch.bfloat16):
            model(clips)  # so that algorithms are chosen
            before = torch.cuda.memory_allocated()
            loss = F.cross_entropy(model(clips), labels)
        kept.append(torch.cuda.memory_allocated() - before)
        del loss, model
    assert kept[1] < 0.85 * kept[0]
