"""Encode the videos of a manifest as H.264 that a loader decodes quickly: small pictures, a keyframe every
few frames. Writes OUT/videos/..., as they lie below --root, a manifest of them for each one given, under its
name, and bad_videos.csv.

Pictures are laid upright, with square pixels; what lies outside start_seconds and end_seconds is cut
off; pictures are never enlarged. Run again, files that were made of the same source with the same settings
are kept; so a run that was stopped in any way goes on. A file that fails is named with its reason and left
out of the new manifest.

examples:
  python data_prep/transcode.py k400/train.csv k400/val.csv --out k400_256
  python data_prep/transcode.py k400/train.csv --out k400_128 --short_side 128 --gop 1 --crf 20
  python data_prep/transcode.py k400/train.csv --out k400_256 --shard $SLURM_ARRAY_TASK_ID/16

Shards 0/16 to 15/16 share the work; each writes train.shard-0-of-16.csv and so on. When all are done, run it
once without --shard: it finds the files made and writes the whole manifest.

exit codes: 0 done; 1 more than --max_bad_fraction of the files failed; 2 an argument or a manifest is wrong.
"""

import os
import statistics
from argparse import ArgumentTypeError
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from script import (
    add_max_bad_fraction,
    add_out_folder,
    add_work,
    manifests_parser,
    printable,
    run,
    unfinished_folder,
    writing,
)
from workers import Failed, run_all

from videonorm.errors import UserError
from videonorm.files import check_writable, write
from videonorm.options import Parser, positive_integer

if TYPE_CHECKING:
    from encode import Job, Made
    from rows import Row
    from video import Facts

PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast", "medium"),
    *("slow", "slower", "veryslow"),
)
MEASURED = 5  # files whose decoding is timed


def parser() -> Parser:
    options = manifests_parser("transcode.py", __doc__)
    add_out_folder(options)
    picture = options.add_argument_group("picture")
    picture.add_argument(
        "--short_side",
        type=_even,
        default=256,
        metavar="PIXELS",
        help="even; smaller pictures stay as small as they are (default: 256)",
    )
    picture.add_argument(
        "--fps", type=_rate, metavar="N", help="fixed, as 30 or 30000/1001 (default: frames keep their times)"
    )
    coding = options.add_argument_group("coding")
    coding.add_argument(
        "--gop",
        type=positive_integer,
        default=12,
        metavar="N",
        help="frames to a keyframe, at most (default: 12)",
    )
    coding.add_argument(
        "--crf", type=_crf, default=23.0, metavar="Q", help="x264's quality, 0 (best) to 51 (default: 23)"
    )
    coding.add_argument(
        "--preset", choices=PRESETS, default="medium", metavar="NAME", help="x264's (default: medium)"
    )
    coding.add_argument(
        "--tune",
        choices=("fastdecode", "none"),
        default="fastdecode",
        help="fastdecode is about 12 %% larger and quicker to decode (default: fastdecode)",
    )
    coding.add_argument("--audio", action="store_true", help="keep the sound, as AAC (default: drop it)")
    work = add_work(options, time_limit_seconds=1800)
    work.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="only part I, from 0, of N (default: all)"
    )
    add_max_bad_fraction(work)
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code. Raises UserError for what it is given and cannot use."""
    options = parser().parse_args(argv)

    from encode import Job, Made, Settings, transcode
    from rows import BadRows, read_by_name, read_classes, say_bad, write_rows
    from targets import targets_of

    out: Path = options.out.absolute()
    shard, num_shards = options.shard
    part = f".shard-{shard}-of-{num_shards}" if num_shards > 1 else ""
    tune = None if options.tune == "none" else options.tune
    settings = Settings(
        *(options.short_side, options.gop, options.crf, options.preset, tune, options.audio, options.fps)
    )
    manifests = read_by_name(options.manifests, options.root)
    classes = read_classes(options.manifests)
    rows = [(name, row) for name, of in manifests.items() for row in of]
    rows_of: dict[str, list[tuple[str, Row]]] = {}  # the rows of a file: val and test may share it
    for target, named in zip(targets_of([row for _, row in rows], out / "videos"), rows, strict=True):
        rows_of.setdefault(target, []).append(named)
    sources = {os.path.realpath(row.path) for _, row in rows}
    if clash := next((target for target in rows_of if os.path.realpath(target) in sources), None):
        raise UserError(f"--out ({printable(out)}) must not hold the sources, such as {printable(clash)}")

    made: dict[str, Made] = {}
    bad = BadRows()
    with writing(out, "a folder to write in, with room"):
        (out / "videos").mkdir(parents=True, exist_ok=True)
        for name in (*manifests, "bad_videos"):
            check_writable(out / f"{name}{part}.csv")
        with unfinished_folder(out, "+".join([*manifests, part])) as unfinished:
            jobs = [
                Job(row.path, target, unfinished, row.start_seconds, row.end_seconds, settings)
                for target, ((_, row), *_) in list(rows_of.items())[shard::num_shards]
            ]
            for number, result in run_all(transcode, jobs, f"Transcoding to {out}", options):
                job = jobs[number]
                if isinstance(result, Failed):
                    bad.add([row for _, row in rows_of[job.target]], result.reason)
                    say_bad(job.source, result.reason)
                else:
                    made[job.target] = result
        done = [(job, made[job.target]) for job in jobs if job.target in made]
        for manifest in manifests:
            path = out / f"{manifest}{part}.csv"
            cells = [
                _new_cells(row, job.target, out, result.facts)
                for job, result in done
                for name, row in rows_of[job.target]
                if name == manifest
            ]
            write_rows(path, cells)
            print(f"{len(cells)} videos in {printable(path)}")
        if classes is not None:
            write(out / "classes.txt", classes)
        kept = sum(result.kept for result in made.values())
        print(f"{len(made) - kept} files made, {kept} kept from before, {len(jobs) - len(made)} failed")
        code = bad.write(out / f"bad_videos{part}.csv", len(jobs), options.max_bad_fraction)
    if done:
        _report(done)
    return code


def _new_cells(row: "Row", target: str, out: Path, facts: "Facts") -> dict[str, str]:
    """The row of a new file, of which all is wanted."""
    bounds = dict.fromkeys({"start_seconds", "end_seconds"} & row.cells.keys(), "")
    return {**row.cells, **bounds, "path": os.path.relpath(target, out), **facts.cells()}


def _report(done: "list[tuple[Job, Made]]") -> None:
    """Print the disk and the speed of decoding, before and after."""
    from rich.filesize import decimal
    from video import clip_seconds

    before = sum({job.source: made.source_bytes for job, made in done}.values())
    after = sum(made.bytes for _, made in done)
    print(f"disk: {decimal(before)} before, {decimal(after)} after, {after / before:.2f} of it")
    side = done[0][0].settings.short_side
    jobs = [job for job, _ in done[:: max(1, len(done) // MEASURED)][:MEASURED]]
    old, new = (
        1000 * statistics.median(seconds)
        for seconds in (
            [clip_seconds(job.source, job.start_seconds, job.end_seconds, short_side=side) for job in jobs],
            [clip_seconds(job.target, short_side=side) for job in jobs],
        )
    )
    print(
        f"decoding 8 frames, stride 8, to short side {side}: {old:.1f} ms before, {new:.1f} ms after, "
        f"{old / new:.1f} times as fast (CPU time of one core, medians of {len(jobs)} files)"
    )


def _even(text: str) -> int:
    value = positive_integer(text)
    if value % 2:
        raise ArgumentTypeError(f"({text}) must be even")
    return value


def _crf(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 51:
        raise ArgumentTypeError(f"({text}) must be from 0 to 51")
    return value


def _rate(text: str) -> str:
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise ArgumentTypeError(f"({text}) must be a number above 0, at most 1000, as 30 or 30000/1001")
    return str(rate)


def _shard(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and int(first) < int(second):
        return int(first), int(second)
    raise ArgumentTypeError(f"({text}) must be I/N with I from 0 to N - 1, as 0/16")


if __name__ == "__main__":
    run(main)
