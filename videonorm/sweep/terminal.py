"""What a sweep shows: a table of T x B against arm that fills as it runs, or plain lines in a log."""

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from videonorm.look import arm_colors, percent, span
from videonorm.sweep.axes import as_text, short_names
from videonorm.sweep.plan import Run
from videonorm.sweep.records import RunFolder
from videonorm.sweep.shape import Shape

PROGRESS_SECONDS = 300.0


def plan_table(runs: Sequence[Run]) -> Table:
    """Planned runs, for a look before they are trained."""
    table = Table(header_style="bold", border_style="dim")
    table.add_column("run")
    for heading in ("T x stride", "B", "accumulate", "frames a step", "steps", "seed"):
        table.add_column(heading, justify="right")
    for run in runs:
        figures = (run.shape.batch_size, run.accumulate, run.frames_per_step, run.steps or "-", run.seed)
        table.add_row(run.name, run.shape.length(), *map(str, figures))
    return table


class SweepDisplay:
    """Use as a context; call ``changed`` when a run starts or ends, ``refresh`` when steps were done.

    A log gets a line for each change, and every PROGRESS_SECONDS one of how far all is.
    """

    def __init__(self, runs: Sequence[RunFolder], console: Console) -> None:
        self._runs = runs
        self._console = console
        self._colors = arm_colors(folder.run.arm for folder in runs)
        # Those that all runs have: of a search each arm has its own, and their names tell them.
        self._axes = [axis for axis in runs[0].run.axes if all(axis in of.run.axes for of in runs)]
        self._started = self._told = time.monotonic()
        self._due = self._started  # when to draw again
        self._cost_before = self._cost_done()
        live = console.is_terminal
        self._live = Live(self._render(), console=console, auto_refresh=False) if live else None

    def __enter__(self) -> "SweepDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._draw()
            self._live.stop()

    def changed(self, folder: RunFolder, note: str = "") -> None:
        """Tell of a run that was started, is done or has failed."""
        if self._live:
            self._draw()
            return
        parts = [f"{note or folder.status:<8}{folder.run.name}"]
        if folder.status == "done":
            parts.append(f"top-1 {percent(folder.top1)}")
            if clips := _clips_seen([folder]):
                parts.append(f"{span(clips)} clips")
            parts.append(f"{folder.recorded.get('clips_per_second') or 0:.1f} clips/s")
        if folder.status == "failed":
            parts.append(folder.error or "")
        if folder.has_ended:
            parts.append(f"({sum(other.has_ended for other in self._runs)} of {len(self._runs)})")
        self.tell("  ".join(parts))

    def lost(self, folder: RunFolder) -> None:
        """Tell of a run whose machine went away."""
        self.tell(f"lost    {folder.run.name}  {folder.error}; it goes on elsewhere from its last checkpoint")

    def quiet(self, folder: RunFolder) -> None:
        """Tell of a run that has not written anything for long."""
        minutes = f"nothing written for {folder.seconds_silent / 60:.0f} min"
        self.tell(f"quiet   {folder.run.name}  {minutes}: a long validation, or it hangs; see {folder.log}")

    def refresh(self) -> None:
        """Draw how far all is, for at most a fiftieth of the time: a table of many runs takes a while."""
        if self._live:
            if time.monotonic() >= self._due:
                self._draw()
        elif time.monotonic() - self._told > PROGRESS_SECONDS:
            self._told = time.monotonic()
            self.tell(self._progress())

    def _draw(self) -> None:
        assert self._live
        began = time.monotonic()
        self._live.update(self._render(), refresh=True)
        ended = time.monotonic()
        self._due = ended + 50 * (ended - began)

    def tell(self, text: str) -> None:
        """A line of the log; on a terminal it stands above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _cost_done(self) -> float:
        return sum(folder.run.cost * (1.0 if folder.has_ended else folder.fraction) for folder in self._runs)

    def _cost(self) -> int:
        return sum(folder.run.cost for folder in self._runs)

    def _progress(self) -> str:
        total, done = self._cost(), self._cost_done()
        ended = sum(folder.has_ended for folder in self._runs)
        spent = time.monotonic() - self._started
        gained = done - self._cost_before
        line = f"{100 * done / total:3.0f} % · {ended} of {len(self._runs)} runs"
        line += f" · {timedelta(seconds=round(spent))}"
        if 0.02 * total < gained and ended < len(self._runs):
            left = timedelta(seconds=round(spent * (total - done) / gained))
            line += f" · about {left} left"
        return line

    def _render(self) -> RenderableType:
        done = self._cost_done()
        bar = ProgressBar(self._cost(), done, width=30, complete_style="cyan", finished_style="green")
        bottom = Table.grid(padding=(0, 1))
        bottom.add_row(bar, self._progress())
        return Group(self._table(), bottom)

    def _table(self) -> Table:
        table = Table(title_justify="left", header_style="bold", border_style="dim")
        table.add_column("T x stride", justify="right")
        table.add_column("B", justify="right")
        for name in short_names(self._axes).values():
            table.add_column(name, justify="right")
        table.add_column("clips seen", justify="right")
        for arm, color in self._colors.items():
            table.add_column(arm, justify="right", header_style=f"bold {color}", min_width=12)
        rows: dict[tuple[Shape, tuple[str, ...]], list[RunFolder]] = {}
        for folder in self._runs:
            values = tuple(as_text(folder.run.axes[axis]) for axis in self._axes)
            rows.setdefault((folder.run.shape, values), []).append(folder)
        for (shape, values), of_row in rows.items():
            squares = (_square([of for of in of_row if of.run.arm == arm]) for arm in self._colors)
            clips = span(seen) if (seen := _clips_seen(of for of in of_row if of.status == "done")) else ""
            table.add_row(shape.length(), str(shape.batch_size), *values, clips, *squares)
        return table


def _clips_seen(runs: Iterable[RunFolder]) -> set[int]:
    return {clips for folder in runs if (clips := folder.recorded.get("clips_seen"))}


def _square(runs: Sequence[RunFolder]) -> Text:
    """One cell: all seeds of an arm in a shape."""
    done = [folder for folder in runs if folder.status == "done"]
    failed = sum(folder.status == "failed" for folder in runs)
    running = [folder.fraction for folder in runs if folder.status == "running"]
    parts = []
    if done:
        mean = sum(folder.top1 or 0.0 for folder in done) / len(done)
        parts.append(Text(percent(mean), "bold"))
        if len(done) < len(runs):
            parts.append(Text(f"{len(done)}/{len(runs)}", "dim"))
    if running:
        full = round(6 * sum(running) / len(running))
        bar = Text("━" * full, "cyan").append("━" * (6 - full), "dim")
        parts.append(bar.append(f" {100 * min(running):3.0f} %", "cyan"))
    if failed:
        parts.append(Text("failed" if len(runs) == 1 else f"{failed} failed", "bold red"))
    return Text(" ").join(parts) if parts else Text("waiting" if runs else "", "dim")
