"""The cells of a sweep as tables: in the terminal, and in Markdown for a README or an issue."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.table import Table
from rich.text import Text

from videonorm.look import PERCENT, arm_colors, span
from videonorm.sweep import markdown
from videonorm.sweep.answer import Answer
from videonorm.sweep.axes import in_words, short_names
from videonorm.sweep.cells import Cell, clips_seen, has_memory, varied_axes, with_result
from videonorm.sweep.convergence import Convergence
from videonorm.sweep.length_matrix import LengthMatrix
from videonorm.sweep.markdown import plain
from videonorm.sweep.predictions import Prediction
from videonorm.sweep.shape import Shape
from videonorm.sweep.transfer import Transfer


def figures(cells: Sequence[Cell], matrix: LengthMatrix | None = None) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of each cell: shape, axes, clips seen, top-1, interval, speed, memory, seeds.

    Further axes are those that vary within an arm, and the learning rate where it follows from a rule. Memory
    is left out where it was not measured for every cell.
    """
    axes, memory = varied_axes(cells), has_memory(cells)
    lr = _lr_varies(cells)
    frames = matrix.frames if matrix else None
    rows = []
    for cell in cells:
        row = [
            cell.shape.length(),
            str(cell.shape.batch_size),
            *_values(cell, axes),
            *([_lr(cell)] if lr else []),
        ]
        if cell.done:
            row += [cell.clips, cell.top1.percent, cell.top1.interval]
        else:
            row += ["", "failed", ""]
        if matrix and frames:
            of = matrix.of(cell)
            row.append(_percent(of.equal_frames if of else None))
        row.append(f"{cell.clips_per_second:.1f}" if cell.done else "")
        if memory:
            row.append(f"{cell.peak_memory_mib:,.0f}" if cell.done else "")
        rows.append([*row, f"{len(cell.done)} of {len(cell.results)}"])
    headings = [
        "T x stride",
        "B",
        *short_names(axes).values(),
        *(["lr"] if lr else []),
        "clips seen",
        "top-1",
    ]
    headings += [f"95{PERCENT} interval", *([f"at {frames} frames"] if frames else []), "clips/s"]
    return [*headings, *(["peak MiB"] if memory else []), "seeds done"], rows


def settled(cells: Sequence[Cell]) -> dict[str, str]:
    """What each arm has of the axes that do not vary within any: what a search has found for it, in words.

    With them stands the learning rate, where arms differ in it and it varies within none.
    """
    varied = varied_axes(cells)
    found: dict[str, list[str]] = {}
    for cell in cells:
        words = in_words(cell.axes, [axis for axis in cell.axes if axis not in varied])
        found.setdefault(cell.arm, [words] if words else [])
    if not _lr_varies(cells) and not _has_lr_axis(cells):
        lr_of = {cell.arm: _lr(cell) for cell in cells}
        if len(set(lr_of.values())) > 1:
            found = {arm: [*words, f"lr {lr_of[arm]}"] for arm, words in found.items()}
    return {arm: ", ".join(words) for arm, words in found.items() if words}


def as_rich(cells: Sequence[Cell]) -> Table:
    """The figures of every cell, seeds taken together; below, what each arm has settled on."""
    headings, rows = figures(cells)
    colors = arm_colors(cell.arm for cell in cells)
    below = "; ".join(f"{arm}: {words}" for arm, words in settled(cells).items())
    table = Table(header_style="bold", border_style="dim", caption=Text(below) if below else None)
    table.caption_justify = "left"
    table.add_column("arm")
    for heading in headings:
        table.add_column(heading, justify="right")
    for (cell, after), row in zip(zip_longest(cells, cells[1:]), rows, strict=True):
        last_of_arm = after is None or after.arm != cell.arm
        arm = Text(cell.arm, f"bold {colors[cell.arm]}")
        table.add_row(arm, *map(Text, row), end_section=last_of_arm)
    return table


def as_markdown(
    cells: Sequence[Cell], found: Answer, about: Mapping[str, Any], matrix: LengthMatrix | None = None
) -> str:
    """The answer, top-1 in percent with its 95 % interval for each arm in each shape, and the origin.

    Args:
        cells, found: the cells, and what they say.
        about: contents of sweep.json.
        matrix: of the models tested at other lengths, as a second table.
    """
    arms, axes, done = list(dict.fromkeys(cell.arm for cell in cells)), varied_axes(cells), with_result(cells)
    of: dict[tuple[Any, ...], dict[str, Cell]] = {}
    for cell in sorted(done, key=lambda cell: cell.shape):
        of.setdefault((cell.shape, *_values(cell, axes)), {})[cell.arm] = cell
    names = map(plain, short_names(axes).values())
    known = ["best possible"] if any(cell.best_possible_top1 is not None for cell in done) else []
    rows = [["T x stride", "B", *names, "clips seen", *map(plain, arms), *known]]
    for (shape, *values), of_row in of.items():
        ceiling = next(cell.best_possible_top1 for cell in of_row.values())
        seen = clips_seen(of_row.values())
        best_possible = ["" if ceiling is None else f"{100 * ceiling:.1f}"] if known else []
        row = [shape.length(), str(shape.batch_size), *map(plain, values), span(seen) if seen else "-"]
        rows.append([*row, *(_figure(of_row.get(arm)) for arm in arms), *best_possible])
    lines = [f"**{plain(found.headline)}**", "", *(f"- {plain(detail)}" for detail in found.details)]
    lines += [f"- {plain(f'{arm}: {words}.')}" for arm, words in settled(cells).items()]
    lines += ["", *markdown.table(rows)]
    if matrix:
        headings, of_cells = length_figures(matrix)
        lines += [
            "",
            "Tested with clips of other lengths:",
            "",
            *markdown.table([list(map(plain, row)) for row in [headings, *of_cells]]),
        ]
    made = [
        plain(f"Top-1 in percent, 95{PERCENT} intervals. Made on {made_on(origin)}.")
        for origin in about.get("origins", [])
    ]
    return "\n".join([*lines, "", *made, ""])


def length_figures(matrix: LengthMatrix) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of each cell: what it was trained with, top-1 in percent at each tested length."""
    axes = varied_axes(of.cell for of in matrix.cells)
    headings = ["arm", "trained T x stride", "B", *short_names(axes).values()]
    headings += [f"T={num_frames}{f' x {stride}' if stride else ''}" for num_frames, stride in matrix.lengths]
    rows = []
    for of in matrix.cells:
        row = [of.cell.arm, of.cell.shape.length(), str(of.cell.shape.batch_size), *_values(of.cell, axes)]
        row += [_percent(of.equal_views.get(length)) for length in matrix.lengths]
        rows.append([*row, *([_percent(of.equal_frames)] if matrix.frames else [])])
    return [*headings, *([f"{matrix.frames} frames"] if matrix.frames else [])], rows


def cost_figures(found: Sequence[Convergence]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of each cell: its runs that reached a top-1, and the medians of what it cost."""
    axes = varied_axes(of.cell for of in found)
    spent = {"steps": ",.0f", "epochs": ".3g", "clips": ",.0f", "frames": ",.0f", "seconds": ",.0f"}
    rows = []
    for of in found:
        row = [of.cell.arm, of.cell.shape.length(), str(of.cell.shape.batch_size), *_values(of.cell, axes)]
        medians = {what: of.median(what) for what in spent}
        row += [f"{of.reached} of {len(of.costs)}"]
        rows.append([*row, *("" if m is None else format(m, spent[what]) for what, m in medians.items())])
    return ["arm", "T x stride", "B", *short_names(axes).values(), "runs there", *spent], rows


def prediction_figures(
    predictions: Sequence[Prediction], cells: Sequence[Cell]
) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of each shape that has both: what was expected, and the top-1 of every arm.

    Of cells that further axes tell apart, the highest of each arm.
    """
    best: dict[tuple[str, Shape], Cell] = {}
    for cell in sorted(with_result(cells), key=lambda cell: cell.top1.value):
        best[cell.arm, cell.shape] = cell
    arms = list(dict.fromkeys(cell.arm for cell in with_result(cells)))
    rows = []
    for of in predictions:
        happened = [_figure(best.get((arm, of.shape))) for arm in arms]
        if any(happened):
            shape = [of.shape.length(), str(of.shape.batch_size)]
            rows.append([*shape, f"{of.n_eff:.1f}", f"{of.short} of {of.layers}", of.verdict, *happened])
    return ["T x stride", "B", "n_eff", "short layers", "batch norm", *arms], rows


def transfer_figures(transfers: Sequence[Transfer]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of each cell: what it started from, what it ended with, and the difference."""
    axes = varied_axes(of.after for of in transfers)
    rows = []
    for of in transfers:
        start = [of.before.arm, of.before.shape.length(), str(of.before.shape.batch_size), _figure(of.before)]
        end = [of.after.shape.length(), str(of.after.shape.batch_size), *_values(of.after, axes)]
        change = of.change
        points = f"{100 * change.value:+.1f} ({change.interval})" if change else ""
        rows.append([of.after.arm, *start, *end, _figure(of.after), points])
    before = ["arm", "learnt as", "T x stride", "B", "top-1 then"]
    return [*before, "T x stride", "B", *short_names(axes).values(), "top-1 now", "change"], rows


def device_name(origin: Mapping[str, Any]) -> str | None:
    """What runs were computed on, from an origin of sweep.json."""
    machine = origin.get("machine") or {}
    return f"{machine.get('cores')} CPU cores" if is_cpu(origin) else machine.get("device")


def is_cpu(origin: Mapping[str, Any]) -> bool:
    return (origin.get("machine") or {}).get("device") == "cpu"


def _values(cell: Cell, axes: Sequence[str]) -> list[str]:
    return [cell.axes.get(axis, "") for axis in axes]


def _lr(cell: Cell) -> str:
    """The learning rate of its runs; empty where it is not known, or not one."""
    found = {result.lr for result in cell.results if result.lr is not None}
    return f"{found.pop():.4g}" if len(found) == 1 else ""


def _has_lr_axis(cells: Sequence[Cell]) -> bool:
    return any(axis.split(".")[-1] == "lr" for cell in cells for axis in cell.axes)


def _lr_varies(cells: Sequence[Cell]) -> bool:
    """Within an arm, and by no further axis: it follows the batch."""
    if _has_lr_axis(cells):
        return False
    of_arm: dict[str, set[str]] = {}
    for cell in with_result(cells):
        of_arm.setdefault(cell.arm, set()).add(_lr(cell))
    return any(len(found) > 1 for found in of_arm.values())


def made_on(origin: Mapping[str, Any]) -> str:
    """The machine, the versions and the commit of an origin of sweep.json."""
    versions = origin.get("versions") or {}
    names = ", ".join(f"{name} {versions[name]}" for name in ("torch", "lightning", "av") if name in versions)
    commit = (origin.get("commit") or "unknown")[:12]
    return f"{device_name(origin)}; {names}; commit {commit}"


def _figure(cell: Cell | None) -> str:
    return f"{100 * cell.top1.value:.1f} ({cell.top1.interval})" if cell else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
