"""``videonorm bench kernels``: group norm and weight standardization beside their peers.

A case is an operator, a dtype and a shape; the shapes are those at which the norms of a network stand, or
those of --shape, with 32 groups. All contenders of a case get the same tensors, of one dtype and memory
format, and return theirs in these: where torch's group norm leaves it in another (fp32 under autocast,
contiguous before torch 2.15), its time includes the conversion that the next convolution would make.

    ours               videonorm.ops.group_norm, one operator; weight and bias fp32
    bn                 F.batch_norm in training, then +, then ReLU in place; weight and bias fp32
    torch_gn           F.group_norm, then +, then ReLU in place; weight and bias of x's dtype
    torch_gn_autocast  the same under autocast; weight and bias fp32
    torch_compile      torch.compile of torch_gn
    copy               a plain copy of x, forward only

"ws" is the standardization of all filters of a network, from fp32 to the dtype of the case:

    ours_grouped       videonorm.ops' weight standardization, stem and stages each in one call
    ours               the same, filter by filter
    timm               F.batch_norm over the filters, as timm's StdConv2d, then the cast of autocast
    var_mean           torch.var_mean and arithmetic, as Big Transfer's code, then the cast of autocast

Forward includes what is saved for the backward pass. Backward is `torch.autograd.grad` for x, weight, bias
and residual of a graph that was just made and is not retained, as in training. "both" is a forward and its
backward together. On a GPU, ours has further rows, for one of its passes each: "moments" and "apply" in the
forward, "sums" and "grad_x" in the backward direction, timed by torch's profiler.

Minimal bytes: every large tensor that the operation needs, read or written once, whoever computes it and
however. Forward: x, y, and the residual. Backward: grad_y, x, grad_x, and with a residual grad_residual and
y, whose zeros are the ReLU's mask (without one, the mask follows from x). Weight standardization: the weight
(fp32) and the result; backward the result's gradient, the weight and its gradient. Numbers a channel or group
do not count. A pass: the tensors that this pass reads and writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from videonorm.bench import compute
from videonorm.bench.names import NUM_GROUPS, OPS, PASSES, PEERS
from videonorm.bench.options import BenchmarkParser
from videonorm.bench.records import ORIGIN, Row
from videonorm.errors import UserError
from videonorm.options import positive_integer, product_of

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch

    from videonorm.bench.sites import Stages
    from videonorm.bench.timing import Clock, Contender, Timing

NETS = ("r3d-18", "r3d-50", "i3d-50", "vgg3d-11")
DTYPES = ("bfloat16", "float16", "float32")
CONTENDERS = ("ours", "ours_grouped", *PEERS, "copy")
DIRECTIONS = ("forward", "backward", "both")
QUICK_SHAPES = ((64, 4, 14, 14), (512, 1, 7, 7))
QUICK_WIDTH = 8

COLUMNS = ORIGIN | {
    "nets": "networks that have this case: name, T x pixels of their clips, number of such norms",
    "shape": "N x C x T x H x W of x; of ws the filters and weights",
    "dtype": "of x, y and the residual; of ws the result's",
    "memory_format": "of x, y and the residual; of ws the weights'",
    "op": "gn, gn_relu, gn_add_relu: group norm, + residual, ReLU; ws: weight standardization",
    "contender": "who does it",
    "direction": "forward, backward, both; or one pass of ours",
    "microseconds": "time of the device, median",
    "host_microseconds": "time in which the host queues it, median",
    "minimal_bytes": "large tensors that the operation needs, read or written once",
    "gb_per_second": "10^9 minimal bytes a second",
    "copy_gb_per_second": "10^9 bytes, read and written, a second, of a large plain copy in the same run",
    "read_gb_per_second": "10^9 bytes a second of torch.sum of a large tensor in the same run",
    "share_of_copy_rate": "gb_per_second / copy_gb_per_second",
    "share_of_same_size_copy": "gb_per_second / that of a plain copy of x",
    **{f"speedup_over_{peer}": f"microseconds of {peer} / microseconds" for peer in PEERS},
    "error": "why there is no time",
}

# Tensors of x's size that are read or written: by any implementation that is minimal, by a copy of x, and by
# passes of ours, after which the kernels are named.
TENSORS = {
    "forward": {"gn": 2, "gn_relu": 2, "gn_add_relu": 3},
    "backward": {"gn": 3, "gn_relu": 3, "gn_add_relu": 5},
    "both": {"gn": 5, "gn_relu": 5, "gn_add_relu": 8},
    "copy": {"gn": 2, "gn_relu": 2, "gn_add_relu": 2},
    "moments": {"gn": 1, "gn_relu": 1, "gn_add_relu": 1},
    "apply": {"gn": 2, "gn_relu": 2, "gn_add_relu": 3},
    "sums": {"gn": 2, "gn_relu": 2, "gn_add_relu": 4},
    "grad_x": {"gn": 3, "gn_relu": 3, "gn_add_relu": 3},
}


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        about: its columns.
        shape: of x; empty for ws.
        stages: shapes of the weights, for ws.
    """

    about: Row
    op: str
    dtype: torch.dtype
    memory_format: torch.memory_format
    shape: tuple[int, ...] = ()
    stages: Stages = ()

    def __str__(self) -> str:
        return " ".join(self.about[name] for name in ("op", "shape", "dtype"))

    def minimal_bytes(self, direction: str) -> int:
        """See the module's docstring."""
        size = self.dtype.itemsize
        if self.op != "ws":
            return TENSORS[direction][self.op] * prod(self.shape) * size
        num_weights = sum(prod(weight) for stage in self.stages for weight in stage)
        forward, backward = num_weights * (4 + size), num_weights * (size + 4 + 4)
        return {"forward": forward, "backward": backward, "both": forward + backward}[direction]


def parser() -> BenchmarkParser:
    options = compute.new_parser(
        "kernels", __doc__, COLUMNS, quick="few small tensors, without the compiled contender"
    )
    text = "networks whose norms and filters are measured"
    options.add("--net", text, NETS, NETS[:1], choices=NETS, metavar="NAME")
    options.add("--op", "operators", tuple(OPS), choices=tuple(OPS), metavar="NAME")
    options.add("--dtype", "of x", DTYPES, DTYPES[:1], choices=DTYPES, metavar="NAME")
    quick = tuple(name for name in CONTENDERS if name != "torch_compile")
    options.add("--contender", "who takes part", CONTENDERS, quick, choices=CONTENDERS, metavar="NAME")
    text = "frames of a clip; --quick and --shape have none"
    options.add("--num_frames", text, (8, 16, 32, 64), (), type=positive_integer, metavar="T")
    options.add("--crop_size", "pixels of its side", (112, 224), (), type=positive_integer, metavar="P")
    options.add("--batch_size", "clips", (1, 2, 8), (2,), type=positive_integer, metavar="N")
    text = f"of x, in place of those at which a network's norms stand; C must be a multiple of {NUM_GROUPS}"
    form = "N x C x T x H x W, as 8x64x16x56x56"
    options.add("--shape", text, (), type=product_of(5, form), metavar="NxCxTxHxW")
    formats = ("channels_last_3d", "contiguous_format")
    options.add("--memory_format", "of x", formats[0], choices=formats)
    return options


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for.

    Raises:
        UserError: the device is not there, the options contradict each other, or the results cannot be
            written.
    """
    from videonorm.bench.timing import Clock

    def new_measure(device: torch.device) -> Callable[[Case], Iterator[Row]]:
        return partial(measure, names=options.contender, repeats=options.repeats, clock=Clock(device))

    compute.run(options, COLUMNS, select_cases, new_measure)


def select_cases(options: argparse.Namespace) -> list[Case]:
    """The cases that the options ask for, every shape once."""
    import torch

    from videonorm.bench.sites import filter_stages, norm_sites

    norms = [op for op in OPS if op != "ws"]
    if options.quick and (options.num_frames or options.crop_size):
        raise UserError("--quick has shapes of its own: it must stand without --num_frames and --crop_size")
    if options.shape and (others := options.given & {"num_frames", "crop_size", "batch_size"}):
        raise UserError(f"--shape is all of a shape: it must stand without --{sorted(others)[0]}")
    for shape in options.shape:
        if shape[1] % NUM_GROUPS:
            text = "x".join(map(str, shape))
            raise UserError(f"--shape ({text}) must have a multiple of {NUM_GROUPS} channels, not {shape[1]}")
    found: dict[tuple[tuple[int, ...], str], list[str]] = {}
    if options.shape:
        found = {(shape, op): [] for shape in options.shape for op in norms}
    elif options.quick:
        found = {(shape, op): [] for shape in QUICK_SHAPES for op in norms}
    else:
        for net, num_frames, crop_size in product(options.net, options.num_frames, options.crop_size):
            for (shape, op), count in norm_sites(net, num_frames, crop_size).items():
                found.setdefault((shape, op), []).append(f"{net}:{num_frames}x{crop_size}:{count}")
    memory_format = getattr(torch, options.memory_format)

    cases = []
    for name in options.dtype:
        dtype, about = getattr(torch, name), {"dtype": name, "memory_format": options.memory_format}
        batches = [()] if options.shape else [(batch_size,) for batch_size in options.batch_size]
        for ((shape, op), places), batch in product(found.items(), batches):
            if op in options.op:
                full = (*batch, *shape)
                case = {"nets": " ".join(places), "shape": "x".join(map(str, full)), "op": op}
                cases.append(Case(about | case, op, dtype, memory_format, shape=full))
        for net in options.net if "ws" in options.op else ():
            stages = filter_stages(net, width=QUICK_WIDTH if options.quick else 64)
            weights = [prod(weight) for stage in stages for weight in stage]
            case = {"nets": net, "shape": f"{len(weights)} filters, {sum(weights)} weights", "op": "ws"}
            cases.append(Case(about | case, "ws", dtype, memory_format, stages=stages))
    return cases


def measure(case: Case, names: Sequence[str], repeats: int, clock: Clock) -> Iterator[Row]:
    """The rows of a case: for each contender its directions, or its error."""
    import torch

    from videonorm.bench.contenders import filter_contenders, norm_contenders
    from videonorm.bench.timing import attempt, race

    made: list[tuple[list[Contender], int]] = []

    def make() -> None:
        if case.op == "ws":
            made.append((filter_contenders(names, case.stages, case.dtype, case.memory_format, clock), 1))
        else:
            add, relu = "add" in case.op, "relu" in case.op
            made.append(norm_contenders(names, case.shape, case.dtype, case.memory_format, add, relu, clock))

    if "torch_compile" in names:
        torch.compiler.reset()  # else, after eight shapes, the ninth would not be compiled
    if error := attempt(make, clock.device):
        yield case.about | {"contender": "all", "error": error}
        return
    contenders, num_sets = made.pop()
    timings = race(contenders, num_sets, repeats, clock)
    for contender in contenders:
        if error := timings[contender.name].error:
            yield case.about | {"contender": contender.name, "error": error}
        else:
            yield from _rows(case, contender.name, timings, clock)
            if contender.name == "ours" and clock.device.type == "cuda" and case.op != "ws":
                yield from _passes(case, contender, num_sets, clock)


def _rows(case: Case, name: str, timings: Mapping[str, Timing], clock: Clock) -> Iterator[Row]:
    copy = timings["copy"].microseconds("forward") if "copy" in timings else None
    for direction in DIRECTIONS:
        microseconds = timings[name].microseconds(direction)
        if microseconds is None:
            continue  # a copy has no backward
        row = case.about | {
            "contender": name,
            "direction": direction,
            "host_microseconds": timings[name].microseconds(direction, "host"),
        }
        for peer in PEERS:
            peers = timings[peer].microseconds(direction) if peer in timings else None
            if peers is not None and peer != name and name != "copy":
                row[f"speedup_over_{peer}"] = peers / microseconds
        yield row | _rates(case, "copy" if name == "copy" else direction, microseconds, clock, copy)


def _passes(case: Case, ours: Contender, num_sets: int, clock: Clock) -> Iterator[Row]:
    """Rows of the single passes, for a device whose profiler can be used."""
    from torch.profiler import ProfilerActivity, profile

    from videonorm.bench.timing import Timing, attempt, run_window

    microseconds: dict[str, float] = {}

    def watch() -> None:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run_window(ours, num_sets, clock, Timing())
        for event in profiler.events() or ():
            name = next((name for name in PASSES if event.name.startswith(name)), None)
            if name and event.device_type.name == "CUDA":
                time = event.time_range.elapsed_us() / num_sets
                microseconds[name] = microseconds.get(name, 0.0) + time

    about = case.about | {"contender": "ours"}
    error = attempt(watch, clock.device)
    if error or not microseconds:
        yield about | {"direction": "passes", "error": error or "the profiler saw no kernel of ours"}
    for name, time in microseconds.items():
        yield about | {"direction": name} | _rates(case, name, time, clock)


def _rates(case: Case, what: str, microseconds: float, clock: Clock, copy: float | None = None) -> Row:
    """The time of a direction, a pass or a copy, and what follows; `copy`: microseconds of the copy of x."""
    count = case.minimal_bytes(what)
    rate = count / microseconds / 1e3
    return {
        "microseconds": microseconds,
        "minimal_bytes": count,
        "gb_per_second": rate,
        "copy_gb_per_second": clock.copy_gb_per_second,
        "read_gb_per_second": clock.read_gb_per_second,
        "share_of_copy_rate": rate / clock.copy_gb_per_second,
        "share_of_same_size_copy": rate / (case.minimal_bytes("copy") / copy / 1e3) if copy else None,
    }
