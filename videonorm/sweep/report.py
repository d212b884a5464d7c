"""The report of a sweep: one HTML page that needs no other file, drawn from results.csv and sweep.json."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from videonorm import files
from videonorm.sweep import plots
from videonorm.sweep.answer import Answer, answer
from videonorm.sweep.cells import Cell, cells_of, highest, with_result
from videonorm.sweep.look import arm_colors
from videonorm.sweep.markdown import as_markdown, device_name
from videonorm.sweep.records import read_json
from videonorm.sweep.results import COLUMNS, Result, read_results

CAPTIONS: dict[Callable[[Sequence[Cell]], Figure], str] = {
    plots.accuracy_against_num_frames: "Top-1 on the validation videos against the clip length T. Bars are "
    "95 % intervals, small dots single seeds. Above the dashed line no model can come with clips that short.",
    plots.accuracy_against_batch_size: "The same top-1 against the batch size B, the clips that BatchNorm "
    "averages over.",
    plots.heat_map: "Top-1 in percent for each T and B. Squares without a number were not run.",
    plots.speed_and_memory: "Training clips per second, on a logarithmic scale, and the most memory that a "
    "run took.",
}


def write_report(output: Path) -> Answer:
    """Write plots/, summary.png, results.md and report.html from a sweep's results; return what they say.

    Raises:
        UserError: the folder has no results.csv.
    """
    results = read_results(output / "results.csv")
    about = read_json(output / "sweep.json")
    cells = cells_of(results)
    devices = {device_name(origin) for origin in about.get("origins", [])}
    device = devices.pop() if len(devices) == 1 else None
    found = answer(cells, device)
    figures = []
    if with_result(cells):
        for draw, caption in CAPTIONS.items():
            figure = draw(cells)
            figures.append({"svg": plots.as_svg(figure), "caption": caption})
            files.write(output / "plots" / f"{draw.__name__}.png", plots.as_png(figure))
        files.write(output / "summary.png", plots.as_png(plots.summary_figure(cells)))
    files.write(output / "results.md", as_markdown(cells, found, about))

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(
        loader=folder,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = templates.get_template("report.html.j2").render(
        name=about.get("name", "sweep"),
        source=about.get("sweep", ""),
        origins=[_flat(origin) for origin in about.get("origins", [])],
        answer=found,
        facts=_facts(results, about, device),
        figures=figures,
        cells=cells,
        best=highest(cells),
        colors=arm_colors(cell.arm for cell in cells),
        columns=COLUMNS,
        results=results,
    )
    files.write(output / "report.html", page)
    return found


def _facts(results: Sequence[Result], about: Mapping[str, Any], device: str | None) -> dict[str, str]:
    done = sum(result.done for result in results)
    seconds = round(sum(result.train_seconds or 0.0 for result in results))
    hours, minutes = divmod(seconds // 60, 60)
    facts = {
        "runs done": f"{done} of {about.get('num_runs', len(results))}",
        "failed": str(len(results) - done),
        "seeds": str(len({result.seed for result in results})),
        "training time, all runs": f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s",
    }
    return {**facts, "on": device} if device else facts


def _flat(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Machine, versions and commit, as one mapping."""
    return {
        **(origin.get("machine") or {}),
        **(origin.get("versions") or {}),
        "commit": origin.get("commit"),
    }
