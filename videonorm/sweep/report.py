"""The report of a sweep: one HTML page that needs no other file.

It is drawn from results.csv, sweep.json and the runs' metrics.csv.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from videonorm import files
from videonorm.look import CI, arm_colors, span
from videonorm.sweep import plots
from videonorm.sweep.answer import Answer, answer
from videonorm.sweep.cells import Cell, cells_of, clips_seen, has_memory, highest, with_result
from videonorm.sweep.curves import Curves, read_curves, training_loss, validation_top1
from videonorm.sweep.records import read_json
from videonorm.sweep.results import COLUMNS, Result, read_results
from videonorm.sweep.scores import gather, read_scores
from videonorm.sweep.tables import as_markdown, device_name, figures, is_cpu


@dataclass(frozen=True)
class Sweep:
    """What a sweep's folder holds, and what it says."""

    results: list[Result]
    cells: list[Cell]
    about: Mapping[str, Any]  # sweep.json
    device: str | None  # what all runs were computed on, if one thing
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
    return Sweep(results, cells, about, device, found)


def write_report(output: Path) -> Answer:
    """Write plots/, summary.png, results.md and report.html from a sweep's results; return what they say.

    Raises:
        UserError: the folder has no results.csv, or a run's metrics.csv cannot be read.
        OSError: a file cannot be written.
    """
    sweep = read_sweep(output)
    gather(output, sweep.results)
    results, cells, about, found = sweep.results, sweep.cells, sweep.about, sweep.answer
    columns = {key: of for key, of in COLUMNS.items() if key != "peak_memory_mib" or has_memory(cells)}
    drawn: list[tuple[str, str, str]] = []  # caption, for a wide page, for a phone
    if with_result(cells):
        for name, (draw, caption) in pictures(cells, read_curves(output, results)).items():
            wide, narrow = draw(phone=False), draw(phone=True)
            if wide and narrow:
                files.write(output / "plots" / f"{name}.png", plots.as_png(wide))
                drawn.append((caption, plots.as_svg(wide, name), plots.as_svg(narrow, f"{name}-phone")))
        files.write(output / "summary.png", plots.as_png(plots.summary_figure(cells)))
    files.write(output / "results.md", as_markdown(cells, found, about))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        about={"name": "sweep", "num_runs": len(results), "sweep": "", "origins": [], **about},
        device=sweep.device,
        answer=found,
        pictures=drawn,
        cells=cells,
        figures=figures(cells),
        best=highest(cells),
        colors=arm_colors(cell.arm for cell in cells),
        results=results,
        columns=columns,
        interval=CI,
        seconds=round(sum(result.train_seconds or 0.0 for result in results)),
        format=format,
    )
    files.write(output / "report.html", page)
    return found


def pictures(cells: Sequence[Cell], curves: Curves) -> dict[str, tuple[Callable[..., Figure | None], str]]:
    """How each picture is drawn, and its caption: what is true of these cells, and no more."""
    done = with_result(cells)
    several = any(len(cell.done) > 1 for cell in done)
    ceilings = any(cell.best_possible_top1 for cell in done)
    all_clips = clips_seen(done)
    failed = any(not result.done for cell in cells for result in cell.results)
    unequal = f" The cells saw {span(all_clips)} training clips." if len(all_clips) > 1 else ""
    dots = ", small dots single seeds" if several else ""
    ceiling = " Above the dashed line no model can come with clips that short." if ceilings else ""
    seeds = " Thin lines are single seeds, thick ones their means." if several else ""
    absent = "were not run or have failed" if failed else "were not run"
    memory = ", and the most GPU memory that a run took" if has_memory(cells) else ""
    return {
        "accuracy_against_num_frames": (
            partial(plots.accuracy_against_num_frames, cells),
            f"Top-1 on the validation videos against the clip length T. Bars are {CI[:-3]} intervals{dots}."
            f"{ceiling}{unequal}",
        ),
        "accuracy_against_batch_size": (
            partial(plots.accuracy_against_batch_size, cells),
            f"The same top-1 against the batch size B, clips per device and step.{unequal}",
        ),
        "heat_map": (
            partial(plots.heat_map, cells),
            f"Top-1 in percent for each T and B{', and the clips seen' if unequal else ''}. Empty squares "
            f"{absent}.",
        ),
        "training_loss": (
            partial(training_loss, cells, curves),
            f"Loss of the training batches, averaged over a twentieth of the run.{seeds}",
        ),
        "validation_top1": (
            partial(validation_top1, cells, curves),
            f"Top-1 on the validation videos while training.{seeds}",
        ),
        "speed_and_memory": (
            partial(plots.speed_and_memory, cells),
            f"Training clips per second, on a logarithmic scale{memory}.",
        ),
    }
