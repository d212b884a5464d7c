"""The results of a sweep as Markdown, for a README or an issue: the answer, and T x B against norm."""

from collections.abc import Sequence
from typing import Any

from videonorm.sweep.answer import Answer
from videonorm.sweep.results import Summary


def as_markdown(summaries: Sequence[Summary], found: Answer, about: dict[str, Any]) -> str:
    """The answer, top-1 in percent with its 95 % interval for each norm at each T and B, and the origin.

    Args:
        summaries, found: the cells, and what they say.
        about: contents of sweep.json.
    """
    norms = list(dict.fromkeys(summary.norm for summary in summaries))
    cells = {
        (summary.num_frames, summary.frame_stride, summary.batch_size, summary.norm): summary
        for summary in summaries
        if summary.done
    }
    shapes = sorted({key[:3] for key in cells})
    lines = [f"**{found.headline}**", "", *(f"- {sentence}" for sentence in found.details), ""]
    lines += [
        "| T x stride | B | " + " | ".join(norms) + " | best possible |",
        "|--:|--:|" + "--:|" * (len(norms) + 1),
    ]
    for shape in shapes:
        row = [cells.get((*shape, norm)) for norm in norms]
        ceiling = next(cell.best_possible_top1 for cell in row if cell)
        num_frames, frame_stride, batch_size = shape
        figures = [_figure(cell) for cell in row] + ["" if ceiling is None else f"{100 * ceiling:.1f}"]
        lines.append(f"| {num_frames} x {frame_stride} | {batch_size} | " + " | ".join(figures) + " |")
    return "\n".join([*lines, "", *(_made_with(origin) for origin in about.get("origins", [])), ""])


def _made_with(origin: dict[str, Any]) -> str:
    """The machine, versions and commit of runs."""
    machine, versions = origin.get("machine") or {}, origin.get("versions") or {}
    cpu = machine.get("device") == "cpu"
    device = f"{machine.get('cores')} CPU cores" if cpu else machine.get("device")
    names = ", ".join(f"{name} {versions[name]}" for name in ("torch", "lightning", "av") if name in versions)
    commit = (origin.get("commit") or "unknown")[:12]
    return f"Top-1 in percent, 95 % intervals. Made on {device}; {names}; commit {commit}."


def _figure(cell: Summary | None) -> str:
    if cell is None:
        return ""
    top1 = cell.top1
    return f"{100 * top1.value:.1f} ({100 * top1.low:.1f} to {100 * top1.high:.1f})"
