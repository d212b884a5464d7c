"""``videonorm bench host``: the time in which the host queues a norm, a stage's filters, a training step.

A GPU that is fast enough waits for the host. What is measured here is the host alone, without a GPU: the CPU
time of the thread that runs Python, PyTorch's dispatch and autograd, on tensors so small that the arithmetic
vanishes.

    bn               torch's BatchNorm3d, addition and ReLU; of a step, our BatchNorm3d, which is torch's
    gn               GroupNorm3d
    gn_ws            GroupNorm3d and WSConv3d
    gn_ws_recompute  the same with `recompute: norms`

Ours run as for CUDA tensors, with all their checks, plans, allocations and launches, but for the driver's
call, which returns at once (0.5 to 2 microseconds of each launch are missing). For everything of PyTorch's,
batch norm among it, its operators for CPU tensors stand in: their dispatch and autograd are those of a GPU,
and in place of launches and of cuDNN's choice of an algorithm they have a few numbers to compute. The
convolutions are torch's native ones, the cheapest there are (oneDNN's take four times as long), without
`videonorm.ops.convolution_backward`, so that the ratios of steps are rather too large than too small. What a
GPU's caching allocator costs is missing on both sides.

    gn, gn_relu, gn_add_relu  one of a chain of 16 norms; the backward pass with gradients of all leaves
    ws                        the filters of I3D-R50's longest stage, 19 convolutions, in bf16: cast by
                              autocast, or standardized in a group
    step                      I3D-R50 of width 2 under bf16 autocast: forward, backward, SGD with momentum

The arms of a part take turns, and garbage is collected between the turns alone. Run it twice in turns to
compare versions: a ratio of one run is good to some 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from videonorm.bench.names import HOST_ARMS, PARTS
from videonorm.bench.options import BenchmarkParser
from videonorm.bench.records import ORIGIN, Records, origin
from videonorm.errors import UserError
from videonorm.options import positive_integer

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from videonorm.bench.host_work import Work

COLUMNS = ORIGIN | {
    "part": "what is queued: gn, gn_relu, gn_add_relu, ws or step",
    "arm": "norm and convolution",
    "direction": "forward, backward, of a step its optimizer; all: their sum",
    "microseconds": "CPU time of the thread, median",
    "ratio_to_bn": "microseconds / those of bn",
}


def parser() -> BenchmarkParser:
    options = BenchmarkParser("host", __doc__, COLUMNS, quick="few repeats")
    options.add("--repeats", "of which the median is taken", 40, 3, type=positive_integer, metavar="R")
    options.add("--part", "what is queued", tuple(PARTS), choices=tuple(PARTS), metavar="NAME")
    options.add("--arm", "norms and convolutions", HOST_ARMS, choices=HOST_ARMS, metavar="NAME")
    return options


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for.

    Raises:
        UserError: no part has one of the arms, or the results cannot be written.
    """
    from videonorm.bench.host_work import CPU, measure
    from videonorm.bench.terminal import new_progress, show
    from videonorm.bench.timing import WARM_UP

    parts = select_works(options)
    with Records(options.out, COLUMNS) as records, new_progress() as progress:
        made_on = origin(COLUMNS, CPU)
        task = progress.add_task("", total=len(parts) * (WARM_UP + options.repeats))
        for part, works in parts.items():
            progress.update(task, description=part)
            rows = measure(works, options.repeats, lambda: progress.advance(task))
            records.add(made_on | row for row in rows)
    show(records)


def select_works(options: argparse.Namespace) -> dict[str, list[Callable[[], Work]]]:
    """What makes the works that the options ask for, by part."""
    from videonorm.bench.host_work import filters, norms, step

    makers = {"ws": filters, "step": step}
    works: dict[str, list[Callable[[], Work]]] = {
        part: [partial(makers.get(part, partial(norms, part)), arm) for arm in arms if arm in options.arm]
        for part, arms in PARTS.items()
        if part in options.part and not set(arms).isdisjoint(options.arm)
    }
    if not works:
        arms = [arm for arm in HOST_ARMS if any(arm in PARTS[part] for part in options.part)]
        raise UserError(
            f"--arm ({' '.join(options.arm)}) must have an arm of --part ({' '.join(options.part)}): "
            f"{' or '.join(arms)}"
        )
    return works
