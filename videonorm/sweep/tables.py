"""The cells of a sweep as tables: in the terminal, and in Markdown for a README or an issue."""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.table import Table
from rich.text import Text

from videonorm.look import PERCENT, arm_colors, span
from videonorm.sweep.answer import Answer
from videonorm.sweep.cells import Cell, clips_seen, has_memory, with_result


def figures(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of each cell: its shape, clips seen, top-1 with its interval, speed, memory, seeds.

    Memory is left out where it was not measured for every cell.
    """
    headings = ["T x stride", "B", "clips seen", "top-1", f"95{PERCENT} interval", "clips/s"]
    memory = has_memory(cells)
    rows = []
    for cell in cells:
        row = [cell.shape.length(), str(cell.shape.batch_size)]
        if cell.done:
            row += [cell.clips, cell.top1.percent, cell.top1.interval, f"{cell.clips_per_second:.1f}"]
        else:
            row += ["", "failed", "", ""]
        if memory:
            row.append(f"{cell.peak_memory_mib:,.0f}" if cell.done else "")
        rows.append([*row, f"{len(cell.done)} of {len(cell.results)}"])
    return [*headings, *(["peak MiB"] if memory else []), "seeds done"], rows


def as_rich(cells: Sequence[Cell]) -> Table:
    """The figures of every cell, seeds taken together."""
    headings, rows = figures(cells)
    colors = arm_colors(cell.arm for cell in cells)
    table = Table(header_style="bold", border_style="dim")
    table.add_column("arm")
    for heading in headings:
        table.add_column(heading, justify="right")
    for (cell, after), row in zip(zip_longest(cells, cells[1:]), rows, strict=True):
        last_of_arm = after is None or after.arm != cell.arm
        arm = Text(cell.arm, f"bold {colors[cell.arm]}")
        table.add_row(arm, *row, end_section=last_of_arm)
    return table


def as_markdown(cells: Sequence[Cell], found: Answer, about: Mapping[str, Any]) -> str:
    """The answer, top-1 in percent with its 95 % interval for each arm in each shape, and the origin.

    Args:
        cells, found: the cells, and what they say.
        about: contents of sweep.json.
    """
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    of = {(cell.shape, cell.arm): cell for cell in with_result(cells)}
    rows = [["T x stride", "B", "clips seen", *map(_text, arms), "best possible"]]
    for shape in sorted({shape for shape, _ in of}):
        row = [of.get((shape, arm)) for arm in arms]
        ceiling = next(cell.best_possible_top1 for cell in row if cell)
        seen = clips_seen(cell for cell in row if cell)
        best_possible = "" if ceiling is None else f"{100 * ceiling:.1f}"
        clips = span(seen) if seen else "-"
        rows.append([shape.length(), str(shape.batch_size), clips, *map(_figure, row), best_possible])
    heading, *table = [f"| {' | '.join(row)} |" for row in rows]
    lines = [f"**{_text(found.headline)}**", "", *(f"- {_text(detail)}" for detail in found.details), ""]
    lines += [heading, "|--:" * len(rows[0]) + "|", *table]
    return "\n".join([*lines, "", *(_text(_made_on(origin)) for origin in about.get("origins", [])), ""])


def device_name(origin: Mapping[str, Any]) -> str | None:
    """What runs were computed on, from an origin of sweep.json."""
    machine = origin.get("machine") or {}
    return f"{machine.get('cores')} CPU cores" if is_cpu(origin) else machine.get("device")


def is_cpu(origin: Mapping[str, Any]) -> bool:
    return (origin.get("machine") or {}).get("device") == "cpu"


def _made_on(origin: Mapping[str, Any]) -> str:
    versions = origin.get("versions") or {}
    names = ", ".join(f"{name} {versions[name]}" for name in ("torch", "lightning", "av") if name in versions)
    commit = (origin.get("commit") or "unknown")[:12]
    return (
        f"Top-1 in percent, 95{PERCENT} intervals. Made on {device_name(origin)}; {names}; commit {commit}."
    )


def _figure(cell: Cell | None) -> str:
    return f"{100 * cell.top1.value:.1f} ({cell.top1.interval})" if cell else ""


def _text(text: str) -> str:
    """Text from a user's files, which is no markup and ends neither a line nor a field of a table."""
    line = re.sub(r"[^\S\u00a0]+", " ", text)  # a no-break space stays one
    return re.sub(r"[\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)
