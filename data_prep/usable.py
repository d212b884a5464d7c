"""Manifests of the listed videos that can be used: which these are, the files written, a table of both."""

import os
from argparse import Namespace
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple, get_args

from listing import Listed, Listing
from matching import Match, Problem, Videos
from rich.table import Table
from rich.text import Text
from rows import write_rows
from script import printable
from video import Facts, probe
from workers import Failed, run_all

from videonorm.data import Split
from videonorm.files import to_cell, write
from videonorm.look import new_console

KINDS = ("missing", "unreadable", "duplicate", "unlabelled")  # of problems that a split's table counts


class Usable(NamedTuple):
    """A row of a manifest."""

    listed: Listed
    path: str  # absolute
    facts: Facts
    status: str  # ok, replacement (from the replacement set); or either and "not probed"


def usable_of(
    matches: list[Match], replacement: Videos | None, options: Namespace
) -> tuple[list[Usable], list[Problem]]:
    """The videos whose files can be used, going by their headers; the others are unreadable.

    Args:
        options: those of ``script.add_work``, and ``no_probe``, with which all files count as good.
    """
    paths = list(dict.fromkeys(path for _, paths in matches for path in paths))
    results = [] if options.no_probe else run_all(probe, paths, "Headers", options)
    headers = {paths[number]: result for number, result in results}
    usable: list[Usable] = []
    problems: list[Problem] = []
    for video, files in matches:
        # A broken replacement leaves the file itself.
        path = next((path for path in files if isinstance(headers.get(path), Facts)), files[0])
        header = headers.get(path, Facts())
        if isinstance(header, Failed):
            problems.append(Problem("unreadable", path, header.reason, video))
        elif reason := _too_short(video, header):
            problems.append(Problem("unreadable", path, reason, video))
        else:
            replaced = replacement is not None and path.startswith(str(replacement.root) + os.sep)
            status = " ".join(["replacement"] * replaced + ["not probed"] * options.no_probe) or "ok"
            usable.append(Usable(video, path, header, status))
    return usable, problems


def _too_short(video: Listed, facts: Facts) -> str:
    start, length = video.start_seconds, facts.duration_seconds
    if start is None or length is None or length > start:
        return ""
    return f"ends at {length:g} s, before start_seconds ({start:g})"


def write_all(listing: Listing, usable: list[Usable], problems: list[Problem], out: Path) -> None:
    """Write train.csv, val.csv, test.csv (those with videos), classes.txt and problems.csv into ``out``."""
    files: dict[Split, list[Usable]] = defaultdict(list)
    for video in usable:
        files[video.listed.split].append(video)
    if listing.one_held_out and "test" in files:
        files["val"] = files["test"]
    for split, rows in files.items():
        write_rows(out / f"{split}.csv", [_cells(row, split, out, listing) for row in rows])
    if listing.class_names is not None:
        write(out / "classes.txt", "".join(f"{name}\n" for name in listing.class_names))
    write_problems(out, problems, listing.class_names)


def write_problems(out: Path, problems: list[Problem], class_names: list[str] | None) -> None:
    """Write problems.csv into ``out``."""
    columns = ("status", "split", "path", "label", "class_name", "where", "reason")
    write_rows(out / "problems.csv", [_problem_cells(problem, class_names) for problem in problems], columns)


def path_from(out: Path, path: str) -> str:
    """An absolute path as a manifest in ``out`` has it: a folder with manifest and videos can be moved."""
    below = str(out.absolute()) + os.sep
    if not path.startswith(below):
        return path
    path = path.removeprefix(below)
    return path if path == to_cell(path.lstrip()) else f"./{path}"


def _cells(video: Usable, split: Split, out: Path, listing: Listing) -> dict[str, object]:
    bounds = (video.listed.start_seconds, video.listed.end_seconds)
    start, end = ("" if bound is None else round(bound, 4) for bound in bounds)
    return {
        "path": path_from(out, video.path),
        **_label_cells(video.listed, listing.class_names),
        "split": split,
        "start_seconds": start,
        "end_seconds": end,
        **video.facts.cells(),
        "status": video.status,
    }


def _problem_cells(problem: Problem, class_names: list[str] | None) -> dict[str, object]:
    # Unlike a line feed, a bare carriage return would not be quoted, and end the row.
    path = problem.path.replace("\r", "\\r")
    cells: dict[str, object] = {"status": problem.status, "path": path, "reason": problem.reason}
    if (video := problem.video) is not None:
        cells |= {"split": video.split, "where": video.where, **_label_cells(video, class_names)}
    return cells


def _label_cells(video: Listed, class_names: list[str] | None) -> dict[str, object]:
    if video.label is None:
        return {"label": "", "class_name": ""}
    return {"label": video.label, "class_name": class_names[video.label] if class_names is not None else ""}


def show(listing: Listing, usable: list[Usable], problems: list[Problem], out: Path) -> None:
    """Print a table of the splits, and what needs the reader's attention."""
    counts = Counter((problem.video and problem.video.split, problem.status) for problem in problems)
    table: dict[str, dict[str, int]] = {}
    hours: dict[str, float] = {}
    lines = []
    for split in get_args(Split):
        rows = [video for video in usable if video.listed.split == split]
        if listed := sum(video.split == split for video in listing.videos):
            replaced = sum(video.status.startswith("replacement") for video in rows)
            kinds = {kind: counts[split, kind] for kind in KINDS}
            table[split] = {"listed": listed, "usable": len(rows), "replaced": replaced, **kinds}
            hours[split] = sum(video.facts.duration_seconds or 0.0 for video in rows) / 3600
        if any(video.listed.label is None for video in rows):
            lines.append(f"{split}.csv has no labels, as published: nothing can be trained or scored on it")
    if listing.one_held_out:
        lines.append("val.csv and test.csv hold the same videos: the publisher has one held-out list")
    if listing.class_names is not None:
        lines.append(f"classes, in the published order: {len(listing.class_names)}, in {out / 'classes.txt'}")
        if empty := set(range(len(listing.class_names))) - {video.listed.label for video in usable}:
            first = listing.class_names[min(empty)]
            lines.append(f"classes without a video that can be used: {len(empty)}, the first is {first}")
    print_table(table, hours, [*lines, *lines_of(problems, out)])


def lines_of(problems: list[Problem], out: Path) -> list[str]:
    """What is said of problems below the table."""
    counts = Counter(problem.status for problem in problems if problem.video is None)
    lines = []
    if copies := counts["duplicate"]:
        lines.append(f"files with the name of another, which is used: {copies:,}")
    if unlisted := counts["unlisted"]:
        lines.append(f"files that are in no list: {unlisted:,}")
    if problems:
        lines.append(f"problems, each with its reason: {len(problems):,}, in {out / 'problems.csv'}")
    return lines


def print_table(table: dict[str, dict[str, int]], hours: dict[str, float], lines: list[str]) -> None:
    """Print the counts of each split, by column, its hours, and lines below."""
    console = new_console()
    shown = Table(header_style="bold", border_style="dim")
    shown.add_column("split")
    for heading in (*next(iter(table.values()), {}), "hours"):
        shown.add_column(heading, justify="right")
    for split, counts in table.items():
        length = f"{hours[split]:,.1f}" if hours[split] else "-"
        shown.add_row(split, *(f"{count:,}" for count in counts.values()), length)
    console.print(shown)
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)
