"""What a sweep shows: a table of T x B against arm that fills as it runs, or plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from videonorm.sweep.look import arm_colors, percent
from videonorm.sweep.plan import Plan, Run

if TYPE_CHECKING:
    from videonorm.sweep.cells import Cell  # whose scipy is slow to import


def new_console() -> Console:
    """The terminal, or a log file of 120 columns."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=120)


def plan_table(plan: Plan) -> Table:
    """The runs of a plan, for a look before they are trained."""
    table = Table(header_style="bold", border_style="dim")
    table.add_column("run")
    for heading in ("T x stride", "B", "accumulate", "frames a step", "steps", "seed"):
        table.add_column(heading, justify="right")
    for run in plan.runs:
        steps = "-" if run.steps is None else run.steps
        figures = (run.shape.batch_size, run.accumulate, run.frames_per_step, steps, run.seed)
        table.add_row(run.name, run.shape.length(), *map(str, figures))
    return table


@dataclass
class RunState:
    """Where a run is."""

    run: Run
    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    fraction: float = 0.0  # of its steps
    top1: float | None = None  # of the last validation
    clips_per_second: float | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("done", "failed")

    def read(self, recorded: dict[str, Any]) -> None:
        """Take over what ``run.json`` says."""
        total = recorded.get("total_steps") or self.run.steps
        self.fraction = min(1.0, (recorded.get("step") or 0) / total) if total else 0.0
        self.top1 = recorded.get("val_top1")
        self.clips_per_second = recorded.get("clips_per_second")


class SweepDisplay:
    """Use as a context; call ``changed`` when a run starts or ends, ``refresh`` when steps were done."""

    def __init__(self, states: Sequence[RunState], console: Console) -> None:
        self._states = states
        self._console = console
        self._colors = arm_colors(state.run.arm for state in states)
        self._started = time.monotonic()
        self._cost_before = self._cost_done()
        live = console.is_terminal
        self._live = Live(self._render(), console=console, auto_refresh=False) if live else None

    def __enter__(self) -> SweepDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self.refresh()
            self._live.stop()

    def changed(self, state: RunState, note: str = "") -> None:
        """Tell of a run that was started, is done or has failed."""
        if self._live:
            self.refresh()
            return
        parts = [f"{note or state.status:<8}{state.run.name}"]
        if state.status == "done":
            parts += [f"top-1 {percent(state.top1)}", f"{state.clips_per_second or 0:.1f} clips/s"]
        if state.status == "failed":
            parts.append(state.error or "")
        if state.ended:
            parts.append(f"({sum(other.ended for other in self._states)} of {len(self._states)})")
        self._console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        if self._live:
            self._live.update(self._render(), refresh=True)

    def _cost_done(self) -> float:
        return sum(state.run.cost * (1.0 if state.ended else state.fraction) for state in self._states)

    def _render(self) -> RenderableType:
        total = sum(state.run.cost for state in self._states)
        done = self._cost_done()
        ended = sum(state.ended for state in self._states)
        spent = time.monotonic() - self._started
        gained = done - self._cost_before
        line = f"{100 * done / total:3.0f} % · {ended} of {len(self._states)} runs · {_clock(spent)}"
        if 0.02 * total < gained and ended < len(self._states):
            line += f" · about {_clock(spent * (total - done) / gained)} left"
        bar = ProgressBar(total, done, width=30, complete_style="cyan", finished_style="green")
        bottom = Table.grid(padding=(0, 1))
        bottom.add_row(bar, line)
        return Group(self._table(), bottom)

    def _table(self) -> Table:
        table = Table(title_justify="left", header_style="bold", border_style="dim")
        table.add_column("T x stride", justify="right")
        table.add_column("B", justify="right")
        for arm, color in self._colors.items():
            table.add_column(arm, justify="right", header_style=f"bold {color}", min_width=12)
        for shape in dict.fromkeys(state.run.shape for state in self._states):
            of_shape = [state for state in self._states if state.run.shape == shape]
            squares = (_square([s for s in of_shape if s.run.arm == arm]) for arm in self._colors)
            table.add_row(shape.length(), str(shape.batch_size), *squares)
        return table


def _square(states: Sequence[RunState]) -> Text:
    """One cell: all seeds of an arm in a shape."""
    done = [state for state in states if state.status == "done"]
    failed = sum(state.status == "failed" for state in states)
    running = [state.fraction for state in states if state.status == "running"]
    parts = []
    if done:
        mean = sum(state.top1 or 0.0 for state in done) / len(done)
        parts.append(Text(percent(mean), "bold"))
        if len(done) < len(states):
            parts.append(Text(f"{len(done)}/{len(states)}", "dim"))
    if running:
        full = round(6 * sum(running) / len(running))
        bar = Text("━" * full, "cyan").append("━" * (6 - full), "dim")
        parts.append(bar.append(f" {100 * min(running):3.0f} %", "cyan"))
    if failed:
        parts.append(Text("failed" if len(states) == 1 else f"{failed} failed", "bold red"))
    return Text(" ").join(parts) if parts else Text("waiting" if states else "", "dim")


def results_table(cells: Sequence[Cell]) -> Table:
    """Top-1 with its 95 % interval, speed and memory of every cell, seeds taken together."""
    colors = arm_colors(cell.arm for cell in cells)
    table = Table(header_style="bold", border_style="dim")
    table.add_column("arm")
    for heading in ("T x stride", "B", "top-1", "95 % interval", "clips/s", "peak MiB", "seeds"):
        table.add_column(heading, justify="right")
    for number, cell in enumerate(cells):
        figures = ["failed", "", "", ""]
        done, ended = len(cell.done), len(cell.results)
        if done:
            top1, speed, memory = cell.top1, cell.clips_per_second, cell.peak_memory_mib
            figures = [top1.percent, top1.interval, f"{speed:.1f}", f"{memory:,.0f}"]
        table.add_row(
            Text(cell.arm, f"bold {colors[cell.arm]}"),
            cell.shape.length(),
            str(cell.shape.batch_size),
            *figures,
            str(done) if done == ended else f"{done} of {ended}",
            end_section=number + 1 == len(cells) or cells[number + 1].arm != cell.arm,
        )
    return table


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
