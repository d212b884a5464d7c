"""What a benchmark shows: a bar while it runs, tables at its end."""

from collections.abc import Sequence
from pathlib import Path

from rich import progress
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from videonorm.bench.records import Row
from videonorm.bench.tables import (
    Table,
    clips_table,
    kernel_table,
    loading_table,
    made_on,
    pass_table,
    step_table,
    target_table,
)

MOST_CASES = 40  # with a line each


def new_progress() -> progress.Progress:
    """A bar over cases, with what is being measured and the time left."""
    return progress.Progress(
        progress.BarColumn(30),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}"),
        console=_console(),
        transient=True,
    )


def show_kernels(rows: Sequence[Row], path: Path) -> None:
    """The times of few cases, the summary of many, the errors, and where the rows are."""
    console = _console()
    for ops in (("gn", "gn_relu", "gn_add_relu"), ("ws",)):
        times = _times([row for row in rows if row["op"] in ops])
        if len(times.rows) <= MOST_CASES:
            _print(console, times)
    for table in (kernel_table(rows), pass_table(rows)):
        _print(console, table)
    _end(console, rows, path, ("op", "shape", "dtype"))


def show_steps(rows: Sequence[Row], path: Path) -> None:
    """The times, the most clips, the errors, and where the rows are."""
    console = _console()
    for table in (step_table(rows), clips_table(rows)):
        _print(console, table)
    _end(console, rows, path, ("net", "num_frames", "batch_size"))


def show_loading(rows: Sequence[Row], path: Path) -> None:
    """The figures of decode, loader or views, what was asked of ours, the errors, and where the rows are."""
    console = _console()
    if rows:
        for table in (loading_table(rows), target_table(rows)):
            _print(console, table)
    _end(console, rows, path, ("case", "files"))


def _times(rows: Sequence[Row]) -> Table:
    """Microseconds of each contender, forward + backward, a line a case."""
    names = list(dict.fromkeys(row["contender"] for row in rows if row["microseconds"]))
    cells: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for row in rows:
        if row["direction"] in ("forward", "backward"):
            case = cells.setdefault((row["op"], row["shape"], row["dtype"]), {})
            case.setdefault(row["contender"], []).append(f"{float(row['microseconds']):.0f}")
    body = [[*case, *("+".join(times.get(name, [])) for name in names)] for case, times in cells.items()]
    return Table("Microseconds, forward + backward", ["op", "shape", "dtype", *names], body)


def _end(console: Console, rows: Sequence[Row], path: Path, case: Sequence[str]) -> None:
    for row in rows:
        if row["error"]:
            what = " ".join(row[name] for name in case)
            who = row.get("contender") or row["loader"]
            console.print(Text(f"{who} failed, {what}: {row['error']}", "red"), soft_wrap=True)
    if rows:
        console.print(made_on(rows[0]), soft_wrap=True)
    console.print(Text(str(path)), soft_wrap=True)


def _print(console: Console, table: Table) -> None:
    if not table.rows:
        return
    console.print(Text(table.title, "italic"), soft_wrap=True)  # a narrow table would wrap its own title
    shown = RichTable(header_style="bold", border_style="dim")
    for index, heading in enumerate(table.header):
        shown.add_column(heading, justify="left" if index == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def _console() -> Console:
    """The terminal, or a log file wide enough for the tables."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
