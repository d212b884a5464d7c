"""`videonorm classify`: what is to be seen in videos, by an artifact. A line a video."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.evaluation.videos import HELP, find_videos
from videonorm.evaluation.view_options import add_artifact, add_device, add_loading, add_views
from videonorm.files import check_writable, write
from videonorm.interruption import stops
from videonorm.options import Parser, positive_integer, seconds

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch

    from videonorm.evaluation.artifact import Artifact, Card
    from videonorm.evaluation.classification import Classified

DESCRIPTION = """\
Say what a network sees in videos: a line each, with the most likely classes. Their scores are those of
`videonorm evaluate`: the softmax, averaged over num_clips x num_crops views.
"""
EPILOG = """\
examples:
  videonorm classify clip.mp4 --artifact exported/motion
  videonorm classify videos/ more/*.mp4 https://example.org/clip.mp4 --artifact exported/motion --json
  videonorm classify film.mp4 --artifact exported/motion --timeline film.png --step 1

exit codes:
  0  every video is classified
  1  some videos, or windows of one, cannot be used: they are named on standard error, the others classified
  2  no video can be used; or a mistake, or a file that cannot be written
  130, 143  stopped by Ctrl-C, SIGTERM
"""


def main(argv: list[str]) -> None:
    parser = Parser(prog="videonorm classify", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help=HELP)
    add_artifact(parser)
    top = "classes of a video (default: 5)"
    parser.add_argument("--top", type=positive_integer, default=5, metavar="N", help=top)
    parser.add_argument("--json", action="store_true", help="a JSON object a line in place of words")
    add_views(parser.add_argument_group("views"), num_clips=10, num_crops=3)
    windows = parser.add_argument_group("long videos: sliding windows, clips from beginning to end")
    each = "classify every window, and the video by the mean of all; decoded in this process, batch by batch"
    windows.add_argument("--windows", action="store_true", help=each)
    picture = "windows, and a picture of which class is seen when: a file for one video, a folder for several"
    windows.add_argument("--timeline", type=Path, metavar="F.png|DIR", help=picture)
    step = "seconds from one window to the next (default: they follow each other)"
    windows.add_argument("--step", type=seconds, metavar="S", help=step)
    how = parser.add_argument_group("how")
    add_loading(how, "videos, or windows of one,")
    add_device(how)
    options = vars(parser.parse_args(argv))
    if options["step"] and not (options["windows"] or options["timeline"]):
        raise UserError(
            f"step ({options['step']:g}) must be left out where neither windows nor timeline is given"
        )

    videos = find_videos(options.pop("videos"))
    with stops("the videos that were printed are done"):
        usable, complaints = _classify(videos, options)
    if complaints:
        raise SystemExit(1 if usable else 2)


def _classify(videos: list[str], options: dict[str, Any]) -> tuple[int, int]:
    """Print what is found; returns how many videos were of use, and how many complaints there were."""
    timeline = options["timeline"]
    pictures = _pictures(timeline, videos) if timeline else {}

    from videonorm.evaluation.artifact import load_artifact
    from videonorm.machine import choose_device

    device = choose_device(options["device"])
    artifact = load_artifact(options["artifact"], device, options["trust"])
    usable = complaints = 0
    for result in _results(videos, artifact, device, options):
        for reason in result.reasons:
            print(f"videonorm: {result.path} {reason}", file=sys.stderr)
        complaints += len(result.reasons)
        if result.probabilities is None:
            continue
        usable += 1
        if timeline:
            _draw(result, artifact.card, pictures[result.path])
        lines = _as_json if options["json"] else _in_words
        print(*lines(result, artifact.card, options["top"], options["windows"]), sep="\n", flush=True)
    return usable, complaints


def _results(
    videos: list[str], artifact: Artifact, device: torch.device, options: dict[str, Any]
) -> Iterator[Classified]:
    """Classify the videos; in a terminal that waits for more than one thing, a bar shows how far that is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from videonorm.evaluation.classification import by_views, by_windows
    from videonorm.evaluation.windows import score_windows

    clips = artifact.card.input
    if options["short_side"]:
        clips = dataclasses.replace(clips, short_side=options["short_side"])
    sliding = options["windows"] or options["timeline"] is not None
    console = Console(stderr=True)
    how: dict[str, Any] = {name: options[name] for name in ("num_crops", "batch_size", "decoder")}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal or (len(videos) == 1 and not sliding),
        redirect_stdout=sys.stdout.isatty(),  # or a file would not get what is printed
    ) as progress:
        task = progress.add_task("videos", total=len(videos))
        if sliding:
            of_video = progress.add_task("windows", total=None)

            def update(done: int, total: int) -> None:
                progress.update(of_video, completed=done, total=total)

            how |= {"step_seconds": options["step"], "progress": update}
            score = partial(score_windows, artifact=artifact, clips=clips, device=device, **how)
            results = by_windows(videos, score)
        else:
            how |= {name: options[name] for name in ("num_clips", "num_workers", "time_limit_seconds")}
            results = by_views(videos, artifact, clips, device, **how)
        for result in results:
            yield result
            progress.advance(task)


def _in_words(result: Classified, card: Card, top: int, windows: bool) -> Iterator[str]:
    from videonorm.evaluation.answers import in_words, top_answers

    assert result.probabilities is not None
    yield f"{result.path}: {in_words(top_answers(result.probabilities, card, top))}"
    if windows and result.windows:
        for (start, end), probabilities, scored in zip(*result.windows[:3], strict=True):
            if scored:
                answers = in_words(top_answers(probabilities, card, top))
                yield f"{result.path} {start:.2f} to {end:.2f} s: {answers}"


def _as_json(result: Classified, card: Card, top: int, windows: bool) -> Iterator[str]:
    from videonorm.evaluation.answers import as_records, top_answers

    assert result.probabilities is not None
    record: dict[str, Any] = {
        "path": result.path,
        "top": as_records(top_answers(result.probabilities, card, top)),
    }
    if windows and result.windows:
        record["windows"] = [
            {
                "start_seconds": start,
                "end_seconds": end,
                "top": as_records(top_answers(probabilities, card, top)) if scored else None,
            }
            for (start, end), probabilities, scored in zip(*result.windows[:3], strict=True)
        ]
    yield json.dumps(record)


def _draw(result: Classified, card: Card, picture: Path) -> None:
    from videonorm.evaluation.answers import class_names
    from videonorm.evaluation.timeline import timeline
    from videonorm.look import as_png

    assert result.windows is not None
    write(picture, as_png(timeline(os.path.basename(result.path), result.windows, class_names(card))))


def _pictures(timeline: Path, videos: Sequence[str]) -> dict[str, Path]:
    """Where the picture of each video goes: into a folder, named and in folders below it as the videos are.

    Raises:
        UserError: it is a file for several videos, or cannot be written.
    """
    from videonorm.data.decoding.location import is_remote, without_credentials

    shown = [without_credentials(video) for video in videos]
    if timeline.suffix.lower() == ".png":
        if len(videos) > 1:
            raise UserError(f"timeline ({timeline}) must be a folder, as there are {len(videos)} videos")
        pictures = {shown[0]: timeline}
    else:
        local = [os.path.abspath(video) for video in videos if not is_remote(video)]
        above = os.path.commonpath([os.path.dirname(path) for path in local]) if local else ""
        pictures = {}
        for video in shown:
            url = video.partition("://")[2].partition("?")[0]
            name = url if is_remote(video) else os.path.relpath(os.path.abspath(video), above)
            pictures[video] = timeline / f"{name}.png"
    try:
        check_writable(next(iter(pictures.values())))
    except OSError as error:
        raise UserError(f"timeline ({timeline}) must be writable ({error.strerror})") from error
    return pictures
