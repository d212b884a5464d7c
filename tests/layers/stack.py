"""A network small enough to see what it keeps for backward."""

import copy
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from videonorm.layers import GroupNorm3d

group_norm = partial(GroupNorm3d, num_groups=4)


def make_stack(norm=group_norm, activation="relu") -> nn.Sequential:
    """Convolution, norm, convolution, norm, convolution."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3),
        norm(8, activation=activation),
        nn.Conv3d(8, 8, 1),
        norm(8, activation=activation),
        nn.Conv3d(8, 4, 1),
    )


def make_clips(*size: int) -> Tensor:
    return torch.randn(size or (2, 3, 4, 6, 6), generator=torch.Generator().manual_seed(0))


class Watched:
    """A module whose outputs are watched: which of them are still in memory?"""

    def __init__(self, *modules: nn.Module) -> None:
        self.outputs = []
        for module in modules:
            module.register_forward_hook(lambda module, args, y: self.note(y))

    def note(self, output: Tensor) -> None:
        self.outputs.append(StorageWeakRef(output.untyped_storage()))

    def num_kept(self) -> int:
        return sum(not output.expired() for output in self.outputs)


def gradients(model: nn.Module, clips: Tensor, context=nullcontext) -> list[Tensor]:
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    with context():
        y = model(clips)
    backward(y)
    return [p.grad for p in model.parameters()]


def backward(y: Tensor) -> None:
    """As `gradients` does it."""
    y.square().mean().backward()


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


def assert_gradients(model: nn.Module, want: list[Tensor]) -> None:
    assert_same([p.grad for p in model.parameters()], want)
