"""What a benchmark shows: a bar while it runs, tables at its end."""

from rich import progress
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from videonorm.bench.records import Records
from videonorm.bench.tables import Table, made_on, new_tables, times_table

MOST_CASES = 40  # whose times are shown, a line each
CASES = (("op", "shape", "dtype"), ("net", "num_frames", "batch_size"), ("case", "files"))  # columns


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


def show(records: Records) -> None:
    """The times of few cases of operators, the summary of all, the errors, and where the rows are."""
    console, rows = _console(), records.rows
    for ops in (("gn", "gn_relu", "gn_add_relu"), ("ws",)):
        times = times_table([row for row in rows if row.get("op") in ops])
        if 0 < len(times.rows) <= MOST_CASES:
            _print(console, times)
    for table in new_tables(rows):
        _print(console, table)
    for row in rows:
        if row.get("error"):
            case = next(case for case in CASES if case[0] in row)
            who, what = row.get("contender") or row["loader"], " ".join(row[name] for name in case)
            console.print(Text(f"{who} failed, {what}: {row['error']}", "red"), soft_wrap=True)
    if rows:
        console.print(made_on(rows[0]), soft_wrap=True)
    console.print(Text(str(records.path)), soft_wrap=True)


def _print(console: Console, table: Table) -> None:
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
