"""The report of a sweep: one HTML page that needs no other file.

It is drawn from results.csv, sweep.json and what the run folders hold: metrics.csv, scores.npz, asked.json;
and from a statistics.csv of `videonorm frontier statistics`, where the folder has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videonorm import files
from videonorm.look import CI, arm_colors, as_png
from videonorm.sweep import drawing, plots
from videonorm.sweep.answer import Answer, answer
from videonorm.sweep.cells import Cell, cells_of, has_memory, highest, with_result
from videonorm.sweep.convergence import convergence, target_top1
from videonorm.sweep.curves import TOP1, read_curves
from videonorm.sweep.html import Drawn, draw_both, render
from videonorm.sweep.length_matrix import length_matrix
from videonorm.sweep.pictures import pictures
from videonorm.sweep.predictions import read_predictions
from videonorm.sweep.recipes import read_recipes, unfinished
from videonorm.sweep.records import read_json
from videonorm.sweep.results import COLUMNS, Result, read_results
from videonorm.sweep.scores import Scores, gather, read_scores
from videonorm.sweep.tables import (
    as_markdown,
    cost_figures,
    device_name,
    figures,
    is_cpu,
    length_figures,
    prediction_figures,
    settled,
    transfer_figures,
)
from videonorm.sweep.transfer import read_transfers


@dataclass(frozen=True)
class Sweep:
    """What a sweep's folder holds, and what it says."""

    results: list[Result]
    cells: list[Cell]
    about: Mapping[str, Any]  # sweep.json
    device: str | None  # what all runs were computed on, if one thing
    scores: Scores
    answer: Answer


def read_sweep(output: Path) -> Sweep:
    """Read a sweep's results.

    The peak memory of runs on a CPU is left out: it is that of a process with its libraries and videos, which
    says nothing of the arms.

    Raises:
        UserError: the folder has no results.csv.
    """
    results = read_results(output / "results.csv")
    about = read_json(output / "sweep.json")
    origins = about.get("origins", [])
    if any(map(is_cpu, origins)):
        results = [replace(result, peak_memory_mib=None) for result in results]
    cells = cells_of(results)
    devices = {device_name(origin) for origin in origins}
    device = devices.pop() if len(devices) == 1 else None
    memories = {(origin.get("machine") or {}).get("device_memory_mib") for origin in origins}
    memory = memories.pop() if len(memories) == 1 else None
    scores = read_scores(output, results)
    found = answer(cells, device, scores=scores, device_memory_mib=memory)
    return Sweep(results, cells, about, device, scores, found)


def write_report(output: Path) -> Answer:
    """Write plots/, summary.png, results.md and report.html from a sweep's results; return what they say.

    Raises:
        UserError: the folder has no results.csv, or a run's metrics.csv or scores.npz, or a statistics.csv
            beside it, cannot be read.
        OSError: a file cannot be written.
    """
    sweep = read_sweep(output)
    gather(output, sweep.results)
    results, cells, about, found = sweep.results, sweep.cells, sweep.about, sweep.answer
    columns = {key: of for key, of in COLUMNS.items() if key != "peak_memory_mib" or has_memory(cells)}
    matrix = length_matrix(cells, sweep.scores)
    curves = read_curves(output, results)
    target = target_top1(cells)
    followed = target and any(len(of[TOP1][0]) > 1 for of in curves.values() if TOP1 in of)
    costs = convergence(cells, curves, target) if target and followed else []
    drawn: list[tuple[str, Drawn]] = []  # with their captions
    if with_result(cells):
        for name, (draw, caption) in pictures(cells, curves, matrix).items():
            if both := draw_both(draw, name):
                files.write(output / "plots" / f"{name}.png", as_png(both.figure))
                files.write(output / "plots" / f"{name}.svg", drawing.on_white(both.svg))
                drawn.append((caption, both))
        files.write(output / "summary.png", as_png(plots.summary_figure(cells)))
    files.write(output / "results.md", as_markdown(cells, found, about, matrix))
    page = render(
        Path(__file__).parent / "report.html.j2",
        about={"name": "sweep", "num_runs": len(results), "sweep": "", "origins": [], **about},
        device=sweep.device,
        answer=found,
        pictures=drawn,
        cells=cells,
        figures=figures(cells, matrix),
        settled=settled(cells),
        lengths=length_figures(matrix) if matrix else None,
        costs=cost_figures(costs) if costs else None,
        target=target,
        transfers=transfer_figures(read_transfers(output, about, cells)),
        expected=prediction_figures(read_predictions(output), cells),
        recipes=read_recipes(output, cells),
        every_axis=list(dict.fromkeys(axis for cell in cells for axis in cell.axes)),
        unfinished=unfinished(output, results),
        best=highest(cells),
        colors=arm_colors(cell.arm for cell in cells),
        results=results,
        columns=columns,
        interval=CI,
        seconds=round(sum(result.train_seconds or 0.0 for result in results)),
    )
    files.write(output / "report.html", page)
    return found
