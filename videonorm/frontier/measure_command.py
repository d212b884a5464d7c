"""``videonorm frontier measure``: what fits in the present device and how fast it is, by real steps."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from videonorm.errors import UserError
from videonorm.frontier.options import check_out, new_memory_parser, questions
from videonorm.options import Parser

CPU_GIB = 0.25
GPU_RESERVE_GIB = 2.0

DESCRIPTION = """\
How many clips of each length the present device holds (a GPU if there is one, else the CPU), norm by norm,
and how fast their steps are: the largest batch, found by bisection, whose optimizer steps fit, each trial in
a process of its own with the recipe's network, optimizer, precision and accumulation. Beside it what
`frontier plan` says of it, and what the recipe's own loader delivers.
"""
EXAMPLES = f"""\
Memory. On a GPU, GIB is what torch's allocator may take, and the peak that of the tensors. On a CPU it is
what the step may take: how far the peak resident memory of its process grows beyond what it had before the
model was made. The default there is {CPU_GIB:g} GiB, with which the small recipes end in minutes; others need
more. A plan counts the tensors of a GPU's step: a CPU takes more, most of it by what malloc keeps of memory
that was freed, some for the workspaces of its convolutions.

Speed. Clips a second by the median of a few steps of the largest batch on clips that are there already. The
loader's are those that `fit` feeds to a network that costs nothing, in batches of 16 videos; where they are
fewer, decoding is the limit and not the model ("decode bound"). Without workers, as on a CPU by default,
steps and decoding take turns, and both cost. Where the recipe's videos are not there, the table says so and
has no number.

Rows are written as they are measured: what Ctrl-C leaves is whole.

--norms takes overlays: files, or the names of those in norm/ beside the recipe.

examples:
  videonorm frontier measure -c configs/motion_r18.yaml --num_frames 8 16
  videonorm frontier measure -c configs/kinetics400_r50.yaml --num_frames 8 64 --norms bn gn_ws_recompute
  videonorm frontier measure -c configs/kinetics400_r50.yaml --memory_gib 24 --num_frames 32
"""


def parser() -> Parser:
    return new_memory_parser(
        "measure",
        DESCRIPTION,
        EXAMPLES,
        memory=f"that may be taken (default: all of the first GPU here; on a CPU {CPU_GIB:g})",
        reserve=f"kept by the plan for what it does not count (default on a GPU: {GPU_RESERVE_GIB:g})",
        reserve_gib=None,
        out="the table",
    )


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for.

    Raises:
        UserError: an option, the recipe or an overlay cannot be used, or no batch fits.
        Stopped: by Ctrl-C or SIGTERM.
    """
    from videonorm.frontier.measure import Device, Measurement, device_here, measure
    from videonorm.frontier.plan import sentence, write_csv
    from videonorm.interruption import stops

    check_out(options.out)
    rows: list[Measurement] = []
    with stops(f"what was measured by then is in {options.out}"), _Progress() as progress:
        progress.say("reading the recipe")
        asked = questions(options)
        progress.say("looking at the device")
        name, gib = device_here()
        reserve = options.reserve_gib or (GPU_RESERVE_GIB if gib else 0.0)
        memory = options.memory_gib or gib or CPU_GIB
        if memory <= reserve:
            raise UserError(f"--memory_gib ({memory:g}) must be above --reserve_gib ({reserve:g})")
        if gib and memory > gib:
            raise UserError(f"--memory_gib ({memory:g}) must be at most that of {name} ({gib:.1f})")
        progress.begin(len(asked))
        for row in measure(asked, Device(name, memory, reserve), progress.say):
            rows.append(row)
            write_csv(Measurement, rows, options.out)
            progress.advance()
    if not any(row.max_batch_size for row in rows):
        raise UserError(f"--memory_gib ({memory:g}) must hold a batch, and of none of these it does")
    _show(rows)
    print(f"\n{sentence(rows)}\n{options.out}")


class _Progress:
    """A bar over what is asked for, with what is being done; on a terminal only."""

    def __enter__(self) -> "_Progress":
        from rich import progress

        columns = (progress.BarColumn(30), progress.MofNCompleteColumn(), progress.TimeElapsedColumn())
        text = progress.TextColumn("{task.description}")
        self._bar = progress.Progress(*columns, text, transient=True, disable=not sys.stdout.isatty())
        self._bar.start()
        self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int) -> None:
        self._bar.update(self._task, total=total)

    def say(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def advance(self) -> None:
        self._bar.advance(self._task)


def _show(rows: Sequence[Any]) -> None:
    """A row a norm, T and crop: largest batch and its peak, planned and measured, and its speed."""
    from rich.table import Table

    from videonorm.look import new_console

    console = new_console()
    table = Table(header_style="bold", border_style="dim")
    headings = (
        "norm",
        "T",
        "crop",
        "B, plan",
        "B",
        "GiB, plan",
        "GiB",
        "plan's error",
        "clips/s",
        "frames/s",
    )
    for heading in (*headings, "fastest B", "loader clips/s"):
        table.add_column(heading, justify="left" if heading == "norm" else "right", no_wrap=heading == "norm")
    for row in rows:
        sizes = (row.norm, row.num_frames, row.crop_size, row.planned_batch_size or "none")
        if not row.max_batch_size:
            table.add_row(*map(str, sizes), "none")
            continue
        memory = (
            f"{row.planned_gib_at_max:.3f}",
            f"{row.gib_at_max:.3f}",
            f"{row.plan_error_percent:+.0f} %",
        )
        speed = (f"{row.clips_per_second:.1f}", f"{row.frames_per_second:.0f}")
        fastest = f"{row.fastest_batch_size} ({row.fastest_clips_per_second:.1f})"
        loader = "not measured"
        if row.loader_clips_per_second is not None:
            bound = ", decode bound" if row.decode_bound else ""
            loader = f"{row.loader_clips_per_second:.1f}{bound}"
        table.add_row(*map(str, sizes), str(row.max_batch_size), *memory, *speed, fastest, loader)
    console.print(table)
    for reason in dict.fromkeys(row.loader_error for row in rows if row.loader_error):
        console.print(f"no loader was measured: {reason}", soft_wrap=True, markup=False)
    first = rows[0]
    made_on = f"Made on {first.device}, where a step may take {first.gib_memory:g} GiB; torch {first.torch}; "
    made_on += f"commit {first.commit or 'unknown'}."
    console.print(made_on, soft_wrap=True, markup=False)
