"""The page over all studies: one HTML file that needs no other, a row a claim, each opening to its figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from videonorm import files
from videonorm.look import CI, as_png
from videonorm.study.arm_table import arm_table
from videonorm.study.figures import picture
from videonorm.study.forest import Place, place, summary_figure
from videonorm.study.judgement import COLORS, Judged, as_markdown, grouped, headline, judged
from videonorm.study.result import StudyResult
from videonorm.sweep import drawing
from videonorm.sweep.axes import as_text
from videonorm.sweep.cells import cells_of
from videonorm.sweep.html import Drawn, draw_both, render
from videonorm.sweep.recipes import Recipes, Unfinished, read_recipes, unfinished
from videonorm.sweep.records import read_json
from videonorm.sweep.results import Result
from videonorm.sweep.tables import device_name


@dataclass(frozen=True)
class Row:
    """A claim on the page.

    Attributes:
        anchor: of its place.
        place: of its interval; None without one.
        picture, caption: None where no run has anything to show.
        rule: what decides the claim, in words.
        values: see ``arm_table``.
    """

    judged: Judged
    anchor: str
    place: Place | None
    picture: Drawn | None
    caption: str
    rule: dict[str, str | None]
    values: tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Section:
    """A study on the page.

    Attributes:
        num_runs: that it has when it is over.
        diverged: its runs that have ended so.
        waiting: runs that have not begun.
        keys: of its file, as YAML.
        origins: the machines and versions that it was run on.
    """

    study: StudyResult
    rows: list[Row]
    num_runs: int
    done: int
    diverged: list[Result]
    unfinished: list[Unfinished]
    waiting: int
    recipes: Recipes
    keys: str
    origins: list[dict[str, Any]]

    @property
    def is_over(self) -> bool:
        return not self.unfinished and not self.waiting

    @property
    def core_minutes(self) -> float:
        return sum(run.train_seconds or 0.0 for run in self.study.results) / 60


def write_page(studies: Sequence[StudyResult], output: Path) -> None:
    """Write the page, and beside it verdicts.png and .svg, a picture of all claims, and verdicts.md, a table.

    Args:
        output: the HTML file.

    Raises:
        UserError: a table in a run's folder cannot be read.
        OSError: a file cannot be written.
    """
    sections = [_section(study, number) for number, study in enumerate(studies)]
    every = judged(studies)
    verdicts = [of.verdict for of in every]
    if every:
        summary = summary_figure(every)
        drawing.lay_out(summary)
        files.write(output.with_name("verdicts.png"), as_png(summary))
        files.write(output.with_name("verdicts.svg"), drawing.on_white(drawing.as_svg(summary, "verdicts")))
    files.write(output.with_name("verdicts.md"), as_markdown(verdicts))
    anchors = {row.judged.verdict: row.anchor for section in sections for row in section.rows}
    devices = {device_name(origin) for section in sections for origin in section.origins}
    page = render(
        Path(__file__).parent / "page.html.j2",
        headline=headline(verdicts),
        groups=grouped(verdicts),
        anchors=anchors,
        sections=sections,
        devices=sorted(filter(None, devices)),
        colors=COLORS,
        interval=CI,
    )
    files.write(output, page)


def _section(study: StudyResult, number: int) -> Section:
    about = read_json(study.folder / "sweep.json")
    begun = unfinished(study.folder, study.results)
    num_runs = about.get("num_runs", len(study.results))
    claims = judged([study])
    return Section(
        study,
        [_row(of, f"c{number}-{place}") for place, of in enumerate(claims)],
        num_runs,
        sum(run.done for run in study.results),
        [run for run in study.results if run.diverged],
        begun,
        max(0, num_runs - len(study.results) - len(begun)),
        read_recipes(study.folder, cells_of(study.results)),
        yaml.safe_dump(dict(study.study.values), sort_keys=False, allow_unicode=True, width=100),
        about.get("origins", []),
    )


def _row(of: Judged, anchor: str) -> Row:
    found = picture(of.study, of.claim)
    drawn = draw_both(found[0], anchor) if found else None
    where = place(of.verdict, of.claim)
    return Row(of, anchor, where, drawn, found[1] if found else "", _rule(of), arm_table(of.study, of.claim))


def _rule(of: Judged) -> dict[str, str | None]:
    claim = of.claim
    return {
        "decided by": f"{claim.statistic.replace('_', ' ')} of {claim.measure.in_words}",
        "of": _cell(claim.of),
        "against": _cell(claim.against) if claim.against else None,
        "between": " and ".join(map(_cell, claim.between)) if claim.between else None,
        "along": claim.along,
        "expected": claim.expected,
        "margin": _margin(of) if claim.margin else None,
    }


def _margin(of: Judged) -> str:
    margin = of.claim.margin
    return f"a factor of {1 + margin:g}" if of.verdict.is_ratio else f"{margin:g} {of.verdict.unit}"


def _cell(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {as_text(value)}" for name, value in cell.items())
