"""``videonorm bench profile``: where the time of a training step goes, by kind of kernel.

The steps are those of `videonorm bench step`. On a GPU the times are those of its kernels, as torch's
profiler has them; what the device waits for the host is in none. On a CPU they are those of PyTorch's
operators, each without the operators that it calls, and the profiler's own time is part of them: for a try.

A kernel's kind follows from its name, as KINDS has it, an operator's from the outermost one around it that
has a kind: "our group norm" and "our weight standardization" are videonorm's kernels, and "elementwise" is
ReLU, addition, casts and whatever else works number by number. "all" is the sum.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from videonorm.bench import compute
from videonorm.bench.names import NORMS, PASSES
from videonorm.bench.options import BenchmarkParser
from videonorm.bench.records import ORIGIN, Row
from videonorm.bench.step import NETS, QUICK_SIZES, new_cases
from videonorm.options import product_of

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch

    from videonorm.bench.trainer import Case

SIZES = ((8, 16), (64, 1))  # T x B
CONTENDERS = ("bn", "gn", "gn_ws")

# In the order in which they are tried: names of kernels hold more than one of these words.
KINDS = {
    "our group norm": rf"^({'|'.join(PASSES)})|(videonorm::|^|: )group_norm",
    "our weight standardization": r"weight_standardize",
    "batch norm": r"batch_?norm|::bn_",
    "torch's group norm": r"group_?norm|RowwiseMoments|ComputeFusedParams|ComputeInternalGradients",
    "optimizer": r"optimizer|multi_tensor|_foreach",
    "layout": r"nchwTo|nhwcTo|ncdhwTo|ndhwcTo|transpose|convertTensor|aten::contiguous",
    "convolution, matmul": r"conv|xmma|cutlass|gemm|implicit|wgrad|dgrad|fprop|cudnn|mkldnn|addmm|aten::mm",
    "pooling": r"pool",
    "memory": r"memset|memcpy|fill|zero_|aten::empty|aten::resize",
    "reduction": r"reduce|aten::sum|aten::mean|softmax|nll_loss|cross_entropy",
    "elementwise": r"elementwise|relu|aten::(add|mul|div|copy|to|_to|clone)|threshold",
}
OTHER, ALL = "other", "all"

COLUMNS = ORIGIN | {
    "net": "the network",
    "crop_size": "pixels of a clip's side",
    "num_frames": "T, frames of a clip",
    "batch_size": "B, clips",
    "contender": "norm and convolution",
    "kind": "of kernels, or all",
    "milliseconds": "of a step, mean",
    "launches": "of a step: kernels, on a CPU operators",
    "share": "milliseconds / those of all",
    "error": "why there is no time",
}


def parser() -> BenchmarkParser:
    options = compute.new_parser("profile", __doc__, COLUMNS, quick="narrow networks on small clips")
    nets = tuple(NETS)
    options.add("--net", "networks", nets[-1:], nets[:1], choices=nets, metavar="NAME")
    options.add("--contender", "norms and convolutions", CONTENDERS, choices=NORMS, metavar="NAME")
    form, text = "frames x clips, as 8x16", "T x B, frames and clips of a batch"
    options.add("--size", text, SIZES, QUICK_SIZES, type=product_of(2, form), metavar="TxB")
    return options


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for.

    Raises:
        UserError: the device is not there, or the results cannot be written.
    """
    import torch

    def new_measure(device: torch.device) -> Callable[[Case], Iterator[Row]]:
        torch.backends.cudnn.benchmark = True
        return partial(measure, names=options.contender, repeats=options.repeats, device=device)

    compute.run(options, COLUMNS, new_cases, new_measure)


def measure(case: Case, names: Sequence[str], repeats: int, device: torch.device) -> Iterator[Row]:
    """The rows of a case: of each contender its kinds, or its error."""
    from videonorm.bench.timing import attempt

    for name in names:
        times: dict[str, list[float]] = {}  # microseconds, by kind
        about = case.about | {"contender": name}
        error = attempt(partial(_watch, case, name, repeats, device, times), device)
        if error or not times:
            yield about | {"kind": ALL, "error": error or "the profiler saw nothing"}
            continue
        times[ALL] = [time for of_kind in times.values() for time in of_kind]
        for kind in (*KINDS, OTHER, ALL):
            of_kind = times.get(kind, [])
            yield about | {
                "kind": kind,
                "milliseconds": sum(of_kind) / repeats / 1e3,
                "launches": round(len(of_kind) / repeats),
                "share": sum(of_kind) / sum(times[ALL]),
            }


def _watch(case: Case, name: str, repeats: int, device: torch.device, times: dict[str, list[float]]) -> None:
    """Enter what the profiler sees of some steps."""
    from torch.profiler import ProfilerActivity, profile

    from videonorm.bench.timing import WARM_UP
    from videonorm.bench.trainer import new_step, wait

    step = new_step(case, name, device)
    for _ in range(WARM_UP):
        step()
    wait(device)
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(repeats):
            step()
        wait(device)
    for event in profiler.events() or ():
        if device.type == "cuda" and event.device_type.name == "CUDA":
            times.setdefault(kind_of([event.name]), []).append(event.time_range.elapsed_us())
        elif device.type == "cpu":
            times.setdefault(kind_of(_names(event)), []).append(event.self_cpu_time_total)


def _names(event: Any) -> list[str]:
    """Of an operator and those around it, the outermost first."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names[::-1]


def kind_of(names: Sequence[str]) -> str:
    """The kind of the first of these kernels or operators that has one."""
    for name in names:
        for kind, pattern in KINDS.items():
            if re.search(pattern, name, re.IGNORECASE):
                return kind
    return OTHER
