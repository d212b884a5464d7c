"""What `bench decode`, `loader` and `views` share: options, cases, and the run, round after round."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import median

from videonorm.bench.options import BenchmarkParser
from videonorm.bench.records import LOADING_ORIGIN, NOT_INSTALLED, Records, Row, origin
from videonorm.bench.trial import Trial, take_turns
from videonorm.options import positive_integer, product_of

VIDEOS = """\
The videos are made at first use, like those of Kinetics: 340 x 256 pixels, 10 s, 30 frames a second, H.264
with a keyframe every 250 frames, and transcoded with one every 12. Figures are medians over the rounds.
"""
Clip = tuple[int, int]  # num_frames, frame_stride


def new_columns(case: Mapping[str, str], figures: Mapping[str, str]) -> dict[str, str]:
    """The columns of a benchmark, of which these are its own: further ones of a case, and the figures."""
    return {
        **LOADING_ORIGIN,
        "quick": "1 if made with --quick: not for publication",
        "case": "T x stride @ short side",
        "files": "how the videos are stored: gop250 as downloaded, gop12_fast transcoded, packed as JPEG",
        "num_frames": "T, frames of a clip",
        "frame_stride": "frames of the video from one to the next",
        "short_side": "pixels of the frames' shorter side; the decode limits do not scale",
        **case,
        "loader": "contender",
        "rounds": "processes of which the median is taken",
        **figures,
        "error": "why there are no figures",
    }


def new_parser(
    name: str, doc: str | None, columns: Mapping[str, str], loaders: tuple[str, ...], clips: tuple[Clip, ...]
) -> BenchmarkParser:
    parser = BenchmarkParser(name, f"{doc}\n{VIDEOS}", columns, quick="two videos, one case, one round")
    parser.add("--loader", "who takes part", loaders, choices=loaders, metavar="NAME")
    text = "frames of a clip, and how far apart they are"
    clip = product_of(2, "frames x stride, as 8x8")
    parser.add("--clip", text, clips, clips[:1], type=clip, metavar="TxSTRIDE")
    text = "pixels of the frames' shorter side, crops are 7/8 of it"
    parser.add("--short_side", text, (128, 256), (128,), type=positive_integer, metavar="P")
    parser.add("--rounds", "of which the median is taken", 2, 1, type=positive_integer, metavar="R")
    return parser


def new_case(loader: str, clip: Clip, short_side: int | None, files: str) -> Row:
    name = f"{clip[0]}x{clip[1]}"
    return {
        "loader": loader,
        "case": name if short_side is None else f"{name}@{short_side}",
        "files": files,
        "num_frames": clip[0],
        "frame_stride": clip[1],
        "short_side": short_side,
    }


def crop_size(short_side: int) -> int:
    """The crop that goes with a short side: 112 of 128, 224 of 256."""
    return short_side * 7 // 8


def run(
    options: argparse.Namespace,
    module: str,
    columns: Mapping[str, str],
    num_paths: int,
    processes: Sequence[Sequence[Trial]],
    compare: Callable[[Sequence[Row]], None],
) -> None:
    """Make the videos, let the contenders take turns, write the medians down and show them.

    Args:
        num_paths: of the videos, see ``Videos``.
        module: its ``trial(case)`` measures a case; ``manifest`` is added to it.
        processes: the trials that share a process, one list a process.
        compare: enters into the rows of the results what they are relative to others.

    Raises:
        UserError: the results cannot be written.
    """
    import torch

    from videonorm.bench.terminal import new_progress, show
    from videonorm.bench.videos import Videos

    videos = Videos(2 if options.quick else 8, num_paths)
    trials = list(chain.from_iterable(processes))
    with Records(options.out, columns) as records:
        made_on = origin(columns, torch.device("cpu")) | {"quick": int(options.quick)}
        packed = {trial.case["short_side"] for trial in trials if trial.case["files"] == "packed"}
        videos.prepare(sorted(packed))
        for trial in trials:
            kind = trial.case["files"]
            kind = f"packed_{trial.case['short_side']}" if kind == "packed" else kind
            trial.case["manifest"] = str(videos.manifest(kind))
            if missing := missing_packages(trial.case["loader"], made_on):
                trial.answers.append({"error": NOT_INSTALLED + ", ".join(missing)})
        try:
            with new_progress() as progress:
                take_turns(module, processes, progress)
        finally:
            rows = medians(trials)
            compare(rows)
            records.add(made_on | {name: row[name] for name in row if name in columns} for row in rows)
    show(records)


def missing_packages(loader: str, versions: Row) -> list[str]:
    """Those that a contender is named after and that have no version."""
    return [name for name in loader.split("_") if name in versions and not versions[name]]


def medians(trials: Sequence[Trial]) -> list[Row]:
    """A row for each case that was tried: its error, or the medians of its figures."""
    rows = []
    for trial in trials:
        row = trial.case | {"rounds": len(trial.answers)}
        if trial.error:
            rows.append(row | {"error": trial.error})
        elif trial.answers:  # else the run was stopped before
            figures = trial.answers[0]
            rows.append(row | {name: median(answer[name] for answer in trial.answers) for name in figures})
    return rows


def add_ratio(rows: Sequence[Row], column: str, figure: str, loader: str, same: Sequence[str]) -> None:
    """Enter the figure of each row over that of a loader in the row that is alike in the columns `same`.

    Of a cost, which is in seconds, it is the loader's over the row's.
    """
    known = {tuple(row[name] for name in same): row.get(figure) for row in rows if row["loader"] == loader}
    for row in rows:
        base, own = known.get(tuple(row[name] for name in same)), row.get(figure)
        if base and own:
            row[column] = base / own if figure.startswith("cpu_seconds") else own / base
