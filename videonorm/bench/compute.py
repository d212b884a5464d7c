"""What `bench kernels`, `step` and `profile` share: options, and the run, case after case on one device."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from videonorm.bench.options import BenchmarkParser, add_device
from videonorm.bench.records import Records, Row, origin
from videonorm.machine import choose_device
from videonorm.options import positive_integer

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch


def new_parser(name: str, doc: str | None, columns: Mapping[str, str], quick: str) -> BenchmarkParser:
    parser = BenchmarkParser(name, doc, columns, quick)
    add_device(parser)
    parser.add("--repeats", "how often each is measured", 20, 3, type=positive_integer, metavar="R")
    return parser


def run(
    options: argparse.Namespace,
    columns: Mapping[str, str],
    select_cases: Callable[[argparse.Namespace], Sequence[Any]],
    new_measure: Callable[[torch.device], Callable[[Any], Iterable[Row]]],
) -> None:
    """Measure the cases one after the other, write their rows down and show them.

    Args:
        select_cases: the cases that the options ask for.
        new_measure: given the device, it returns what measures a case.

    Raises:
        UserError: this machine has no such device, the results cannot be written, or our kernels do not run
            on this GPU.
    """
    import torch

    from videonorm.bench.terminal import new_progress, show
    from videonorm.ops import use

    device = choose_device(options.device)
    cases = select_cases(options)
    ours: AbstractContextManager[Any] = nullcontext()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events are those of the current one
        # Where our kernels cannot be had, that is an error, and not the time of something else.
        ours = use("cuda")
    measure = new_measure(device)
    with ours, Records(options.out, columns) as records, new_progress() as progress:
        made_on = origin(columns, device)
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=str(case))
            records.add(made_on | row for row in measure(case))
            progress.advance(task)
    show(records)
