"""What a sweep shows: a table of T x B against norm that fills as it runs, or plain lines in a log."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from videonorm.sweep.colors import norm_colors
from videonorm.sweep.plan import Cell, Plan
from videonorm.sweep.results import Summary


def new_console() -> Console:
    """The terminal, or a log file of 120 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def plan_table(plan: Plan) -> Table:
    """The cells of a plan, for a look before they are run."""
    table = Table(header_style="bold", border_style="dim")
    table.add_column("run")
    for heading in ("T x stride", "B", "accumulate", "frames a step", "steps", "seed"):
        table.add_column(heading, justify="right")
    for cell in plan.cells:
        table.add_row(
            cell.run,
            f"{cell.num_frames} x {cell.frame_stride}",
            str(cell.batch_size),
            str(cell.accumulate),
            str(cell.num_frames * cell.batch_size * cell.accumulate),
            "-" if cell.steps is None else str(cell.steps),
            str(cell.seed),
        )
    return table


@dataclass
class CellState:
    """Where a cell is."""

    cell: Cell
    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    fraction: float = 0.0  # of its steps
    top1: float | None = None  # of the last validation
    clips_per_second: float | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("done", "failed")

    def read(self, run: dict[str, Any]) -> None:
        """Take over what ``run.json`` says."""
        total = run.get("total_steps") or self.cell.steps
        self.fraction = min(1.0, (run.get("step") or 0) / total) if total else 0.0
        self.top1 = run.get("val_top1")
        self.clips_per_second = run.get("clips_per_second")


class SweepDisplay:
    """Use as a context; call ``changed`` when a cell starts or ends, ``refresh`` when steps were done."""

    def __init__(self, states: Sequence[CellState], console: Console) -> None:
        self._states = states
        self._console = console
        self._colors = norm_colors(state.cell.norm for state in states)
        self._started = time.monotonic()
        self._cost_before = self._cost_done()
        self._live = (
            Live(self._render(), console=console, auto_refresh=False) if console.is_terminal else None
        )

    def __enter__(self) -> "SweepDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self.refresh()
            self._live.stop()

    def changed(self, state: CellState, note: str = "") -> None:
        """Tell of a cell that was started, kept, done or failed."""
        if self._live:
            self.refresh()
            return
        ended = sum(other.ended for other in self._states)
        parts = [f"{note or state.status:<8}{state.cell.run}"]
        if state.status == "done":
            parts.append(f"top-1 {percent(state.top1)}")
            parts.append(f"{state.clips_per_second or 0:.1f} clips/s")
        if state.status == "failed":
            parts.append(state.error or "")
        if state.status != "running":
            parts.append(f"({ended} of {len(self._states)})")
        self._console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        if self._live:
            self._live.update(self._render(), refresh=True)

    def _cost_done(self) -> float:
        return sum(state.cell.cost * (1.0 if state.ended else state.fraction) for state in self._states)

    def _render(self) -> RenderableType:
        total = sum(state.cell.cost for state in self._states)
        done = self._cost_done()
        ended = sum(state.ended for state in self._states)
        spent = time.monotonic() - self._started
        gained = done - self._cost_before
        line = f"{100 * done / total:3.0f} % · {ended} of {len(self._states)} cells · {_clock(spent)}"
        if 0.02 * total < gained and ended < len(self._states):
            line += f" · about {_clock(spent * (total - done) / gained)} left"
        bottom = Table.grid(padding=(0, 1))
        bottom.add_row(
            ProgressBar(total, done, width=30, complete_style="cyan", finished_style="green"), line
        )
        return Group(self._table(), bottom)

    def _table(self) -> Table:
        table = Table(title_justify="left", header_style="bold", border_style="dim")
        table.add_column("T x stride", justify="right")
        table.add_column("B", justify="right")
        for norm, color in self._colors.items():
            table.add_column(norm, justify="right", header_style=f"bold {color}", min_width=12)
        shapes = dict.fromkeys(
            (state.cell.num_frames, state.cell.frame_stride, state.cell.batch_size) for state in self._states
        )
        for shape in shapes:
            num_frames, frame_stride, batch_size = shape
            row: list[RenderableType] = [f"{num_frames} x {frame_stride}", str(batch_size)]
            for norm in self._colors:
                row.append(_square([s for s in self._states if _shape(s.cell) == (norm, *shape)]))
            table.add_row(*row)
        return table


def _shape(cell: Cell) -> tuple[str, int, int, int]:
    return cell.norm, cell.num_frames, cell.frame_stride, cell.batch_size


def _square(states: Sequence[CellState]) -> Text:
    """One square of the table: all seeds of a norm at a T and B."""
    done = [state for state in states if state.status == "done"]
    failed = sum(state.status == "failed" for state in states)
    running = [state.fraction for state in states if state.status == "running"]
    text = Text()
    if done:
        mean = sum(state.top1 or 0.0 for state in done) / len(done)
        text.append(percent(mean), "bold")
        if len(done) < len(states):
            text.append(f" {len(done)}/{len(states)}", "dim")
    if running:
        bar = 6
        full = round(bar * sum(running) / len(running))
        text.append(" " if text else "")
        text.append("━" * full, "cyan").append("━" * (bar - full), "dim").append(
            f" {100 * min(running):3.0f} %", "cyan"
        )
    if failed:
        text.append(" " if text else "").append(
            "failed" if len(states) == 1 else f"{failed} failed", "bold red"
        )
    return text or Text("waiting" if states else "", "dim")


def results_table(summaries: Sequence[Summary]) -> Table:
    """Top-1 with its 95 % interval, speed and memory of every cell that is done, seeds taken together."""
    colors = norm_colors(summary.norm for summary in summaries)
    table = Table(header_style="bold", border_style="dim")
    table.add_column("norm")
    for heading in ("T x stride", "B", "top-1", "95 % interval", "clips/s", "peak MiB", "seeds"):
        table.add_column(heading, justify="right")
    for number, summary in enumerate(summaries):
        done = summary.done
        figures = ["failed", "", "", ""]
        if done:
            top1 = summary.top1
            interval = f"{100 * top1.low:.1f} to {100 * top1.high:.1f}"
            speed, memory = f"{summary.clips_per_second:.1f}", f"{summary.peak_memory_mib:,.0f}"
            figures = [percent(top1.value), interval, speed, memory]
        last_of_norm = number + 1 == len(summaries) or summaries[number + 1].norm != summary.norm
        seeds = (
            str(len(done)) if len(done) == len(summary.results) else f"{len(done)} of {len(summary.results)}"
        )
        table.add_row(
            Text(summary.norm, f"bold {colors[summary.norm]}"),
            f"{summary.num_frames} x {summary.frame_stride}",
            str(summary.batch_size),
            *figures,
            seeds,
            end_section=last_of_norm,
        )
    return table


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
