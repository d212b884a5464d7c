"""What `videonorm bench host` has the host queue: norms, a stage's filters, training steps."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.bench.records import Row
from videonorm.bench.sites import filter_stages
from videonorm.bench.timing import WARM_UP
from videonorm.bench.trainer import Case
from videonorm.layers import GroupNorm3d, WSConv3d, group_weight_standardization
from videonorm.ops.convolution_backward import unguarded
from videonorm.ops.idle_gpu import idle_gpu

CPU = torch.device("cpu")
DTYPE = torch.bfloat16
CHAIN = 16  # norms
SHAPE = (2, 8, 1, 2, 2)  # of x
NUM_GROUPS = 4
STEP = Case("i3d-50", crop_size=8, num_frames=2, batch_size=2, width=2, num_groups=2)


class Work(NamedTuple):
    """Something to time, in the order of its directions; `reset` is not timed."""

    part: str
    arm: str
    directions: dict[str, Callable[[], None]]
    reset: Callable[[], None]
    times: int  # that the part is in it

    def run(self) -> Row:
        """Microseconds of this thread that each direction takes, and in "all" their sum."""
        self.reset()
        taken = {}
        for direction, queue in self.directions.items():
            start = time.thread_time_ns()
            queue()
            taken[direction] = (time.thread_time_ns() - start) / 1e3 / self.times
        return taken | {"all": sum(taken.values())}


class TorchBatchNorm3d(nn.BatchNorm3d):
    """torch's own, then what a block does after it."""

    def __init__(self, num_channels: int, relu: bool) -> None:
        super().__init__(num_channels)
        self.relu = relu

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        if residual is not None:
            y = y + residual
        return F.relu(y, inplace=True) if self.relu else y


def norms(op: str, arm: str) -> Work:
    """A chain of norms, so that what a backward pass costs once is shared."""
    relu, num_channels = "relu" in op, SHAPE[1]

    def new_norm() -> nn.Module:
        if arm == "bn":
            return TorchBatchNorm3d(num_channels, relu)
        return GroupNorm3d(num_channels, NUM_GROUPS, activation="relu" if relu else None)

    def random() -> Tensor:
        return torch.randn(SHAPE).to(DTYPE, memory_format=torch.channels_last_3d).requires_grad_()

    chain = [(new_norm(), random() if "add" in op else None) for _ in range(CHAIN)]
    x, grad = random(), random().detach()
    leaves = [x, *(residual for _, residual in chain if residual is not None)]
    leaves += [parameter for norm, _ in chain for parameter in norm.parameters()]
    graph: list[Tensor] = []

    def forward() -> None:
        y = x
        for norm, residual in chain:
            y = norm(y, residual)
        graph.append(y)

    directions = {"forward": forward, "backward": lambda: torch.autograd.backward(graph.pop(), grad)}
    return Work(op, arm, directions, partial(_reset, leaves), CHAIN)


class Filters(nn.Module):
    """The filters of a stage as its convolutions get them under autocast: cast, or standardized."""

    def __init__(self, sizes: Sequence[torch.Size], standardized: bool) -> None:
        super().__init__()
        conv: type[nn.Conv3d] = WSConv3d if standardized else nn.Conv3d
        self.convs = nn.ModuleList(conv(size[1], size[0], (size[2], size[3], size[4])) for size in sizes)

    def forward(self) -> list[Any]:
        return [
            conv.weight_at_hand(DTYPE) if isinstance(conv, WSConv3d) else conv.weight.to(DTYPE)
            for conv in self.convs
        ]


def filters(arm: str) -> Work:
    """Those of the stage of most convolutions."""
    stage = max(filter_stages(STEP.net, STEP.width), key=len)
    model = nn.Sequential(Filters(stage, standardized=arm != "bn"))
    group_weight_standardization(model.to(memory_format=torch.channels_last_3d))
    leaves = list(model.parameters())
    grads = [torch.zeros_like(leaf, dtype=DTYPE) for leaf in leaves if leaf.dim() > 1]
    graph: list[Any] = []

    def forward() -> None:
        with torch.autocast(CPU.type, DTYPE):
            weights = model[0]()
        graph.append(_Convolutions.apply(grads, *weights))

    directions = {"forward": forward, "backward": lambda: graph.pop().backward()}
    return Work("ws", arm, directions, partial(_reset, leaves), 1)


class _Convolutions(torch.autograd.Function):
    """In place of those that use the weights: it hands their gradients out."""

    @staticmethod
    def forward(ctx: Any, grads: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.grads = grads
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, *ctx.grads


def step(arm: str) -> Work:
    """One of training, as `videonorm bench step` has it."""
    model = STEP.new_model(arm).to(memory_format=torch.channels_last_3d)
    parameters = list(model.parameters())
    # What it is on a GPU by default: the CPU's default goes from parameter to parameter in Python.
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, foreach=True)
    clips, labels = STEP.new_batch(STEP.batch_size, CPU)
    graph: list[Tensor] = []

    def forward() -> None:
        with torch.autocast(CPU.type, DTYPE):
            graph.append(F.cross_entropy(model(clips), labels))

    def backward() -> None:
        graph.pop().backward()  # type: ignore[no-untyped-call]

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    directions = {"forward": forward, "backward": backward, "optimizer": update}
    return Work("step", arm, directions, lambda: None, 1)


def _reset(leaves: Sequence[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def measure(works: Sequence[Callable[[], Work]], repeats: int, done: Callable[[], None]) -> Iterator[Row]:
    """A row for each direction of each work: medians, and ratios to those of the arm "bn".

    Args:
        works: that make them; they take turns.
        done: called after each turn of all.
    """
    with _alone():
        made = [make() for make in works]
        taken: list[list[Row]] = [[] for _ in made]
        for _ in range(WARM_UP + repeats):
            gc.collect()
            for work, rows in zip(made, taken, strict=True):
                # Only our operators may take CPU tensors for CUDA ones, and only while they are timed.
                with nullcontext() if work.arm == "bn" else idle_gpu():
                    work.run()  # after the others' code, its own is in no cache
                    rows.append(work.run())
            done()
    medians: dict[tuple[str, str, str], float] = {}
    for work, rows in zip(made, taken, strict=True):
        for direction in rows[0]:
            found = median(row[direction] for row in rows[WARM_UP:])
            medians[work.part, work.arm, direction] = found
    for (part, arm, direction), microseconds in medians.items():
        bn = medians.get((part, "bn", direction))
        row = {"part": part, "arm": arm, "direction": direction, "microseconds": microseconds}
        yield row | {"ratio_to_bn": microseconds / bn if bn else None}


@contextmanager
def _alone() -> Iterator[None]:
    """One thread does all, convolutions are the cheapest there are, and garbage is left lying."""
    threads, native = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    torch.set_num_threads(1)
    torch._C._set_mkldnn_enabled(False)
    gc.disable()
    gc.freeze()  # a collection of all that was imported takes longer than most turns
    try:
        with unguarded():  # as on a GPU
            yield
    finally:
        gc.unfreeze()
        gc.enable()
        torch._C._set_mkldnn_enabled(native)
        torch.set_num_threads(threads)
