"""The report of a sweep: one HTML page that needs no other file, drawn from results.csv and sweep.json."""

from pathlib import Path

import jinja2

from videonorm import files
from videonorm.sweep import plots
from videonorm.sweep.answer import Answer, answer
from videonorm.sweep.cells import HEADINGS, cells_of, highest, with_result
from videonorm.sweep.look import arm_colors
from videonorm.sweep.records import read_json
from videonorm.sweep.results import COLUMNS, read_results
from videonorm.sweep.tables import as_markdown, device_name

PICTURES = (
    plots.accuracy_against_num_frames,
    plots.accuracy_against_batch_size,
    plots.heat_map,
    plots.speed_and_memory,
)


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
    pictures = {}
    if with_result(cells):
        for draw in PICTURES:
            figure = draw(cells)
            pictures[draw.__name__] = plots.as_svg(figure)
            files.write(output / "plots" / f"{draw.__name__}.png", plots.as_png(figure))
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
        device=device,
        answer=found,
        pictures=pictures,
        cells=cells,
        headings=HEADINGS,
        best=highest(cells),
        colors=arm_colors(cell.arm for cell in cells),
        results=results,
        columns=COLUMNS,
        seconds=round(sum(result.train_seconds or 0.0 for result in results)),
        format=format,
    )
    files.write(output / "report.html", page)
    return found
