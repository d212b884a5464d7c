"""The cells of a sweep as tables: in the terminal, and in Markdown for a README or an issue."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.table import Table
from rich.text import Text

from videonorm.sweep.answer import Answer
from videonorm.sweep.cells import HEADINGS, Cell, with_result
from videonorm.sweep.look import arm_colors


def as_rich(cells: Sequence[Cell]) -> Table:
    """Top-1 with its 95 % interval, speed and memory of every cell, seeds taken together."""
    colors = arm_colors(cell.arm for cell in cells)
    table = Table(header_style="bold", border_style="dim")
    table.add_column("arm")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for cell, after in zip_longest(cells, cells[1:]):
        last_of_arm = after is None or after.arm != cell.arm
        arm = Text(cell.arm, f"bold {colors[cell.arm]}")
        table.add_row(arm, *cell.figures(), end_section=last_of_arm)
    return table


def as_markdown(cells: Sequence[Cell], found: Answer, about: Mapping[str, Any]) -> str:
    """The answer, top-1 in percent with its 95 % interval for each arm in each shape, and the origin.

    Args:
        cells, found: the cells, and what they say.
        about: contents of sweep.json.
    """
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    of = {(cell.shape, cell.arm): cell for cell in with_result(cells)}
    rows = [["T x stride", "B", *map(_text, arms), "best possible"]]
    for shape in sorted({shape for shape, _ in of}):
        row = [of.get((shape, arm)) for arm in arms]
        ceiling = next(cell.best_possible_top1 for cell in row if cell)
        best_possible = "" if ceiling is None else f"{100 * ceiling:.1f}"
        rows.append([shape.length(), str(shape.batch_size), *map(_figure, row), best_possible])
    heading, *table = [f"| {' | '.join(row)} |" for row in rows]
    lines = [f"**{_text(found.headline)}**", "", *(f"- {_text(detail)}" for detail in found.details), ""]
    lines += [heading, "|--:" * len(rows[0]) + "|", *table]
    return "\n".join([*lines, "", *(_text(_made_on(origin)) for origin in about.get("origins", [])), ""])


def device_name(origin: Mapping[str, Any]) -> str | None:
    """What runs were computed on, from an origin of sweep.json."""
    machine = origin.get("machine") or {}
    cpu = machine.get("device") == "cpu"
    return f"{machine.get('cores')} CPU cores" if cpu else machine.get("device")


def _made_on(origin: Mapping[str, Any]) -> str:
    versions = origin.get("versions") or {}
    names = ", ".join(f"{name} {versions[name]}" for name in ("torch", "lightning", "av") if name in versions)
    commit = (origin.get("commit") or "unknown")[:12]
    return f"Top-1 in percent, 95 % intervals. Made on {device_name(origin)}; {names}; commit {commit}."


def _figure(cell: Cell | None) -> str:
    return f"{100 * cell.top1.value:.1f} ({cell.top1.interval})" if cell else ""


def _text(text: str) -> str:
    """Text from a user's files, which may not end a line or a field of a table."""
    return " ".join(text.split()).replace("|", r"\|")
