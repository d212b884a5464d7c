"""Keep the frames of a manifest's videos as JPEG in a few large files; ``--help`` says how."""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from script import add_max_bad_fraction, add_work, new_parser, positive, printable, run
from workers import Failed, run_all

from videonorm.errors import UserError

if TYPE_CHECKING:
    from rows import Row

DESCRIPTION = """\
Decode the videos of manifests once and keep their frames as JPEG at the size that training wants, in shards
of a few hundred MiB: for sweeps that read the same videos hundreds of times. A clip is then read at the price
of its own frames. Writes OUT/shards/..., a manifest for each one given, under its name, and bad_videos.csv.

Before it starts it packs a few of the videos aside, and says what all of them take on disk, how much faster
loading becomes and how long packing takes. What lies outside start_seconds and end_seconds is left out;
pictures are upright, and never enlarged. Run again, a run that was stopped in any way goes on. A video that
fails is named with its reason and left out of the new manifest.
"""
EXAMPLES = """\
examples:
  python data_prep/pack.py k400/train.csv k400/val.csv --out k400_packed --dry-run
  python data_prep/pack.py k400/train.csv k400/val.csv --out k400_packed
  python data_prep/pack.py ssv2/train.csv --out ssv2_packed --short-side 256 --frame-step 2

exit codes: 0 done; 1 more than --max-bad-fraction of the videos failed; 2 an argument or a manifest is wrong.
"""
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # no later video can succeed
SAMPLED = 12  # videos packed before all others
MEASURED = 5  # of them, those whose loading is timed
SPARE = 1.1  # times the disk estimated must be free
DIGITS = 8  # of a digest in the names of shards


class Settings(NamedTuple):
    """What the frames depend on, besides their source."""

    short_side: int
    quality: int
    frame_step: int


class Job(NamedTuple):
    """One video to pack, into a shard of its own; many are then joined."""

    source: str
    target: str
    start_seconds: float | None
    end_seconds: float | None
    settings: Settings


class Packed(NamedTuple):
    """One video that is packed."""

    bytes: int
    source_bytes: int
    seconds: float  # that it took
    first: int  # frame of the source
    stop: int


class Shard(NamedTuple):
    """A shard that is there."""

    path: Path
    first: int  # rows of the manifest, from first to stop - 1
    stop: int
    bad: dict[int, str]  # row -> reason


class Packing(NamedTuple):
    """The shards of one manifest."""

    name: str
    rows: "list[Row]"
    digest: str
    folder: Path

    def path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{self.digest}-{number:05d}.safetensors"

    def shards(self) -> list[Shard]:
        from videonorm.data.decoding.packed import read_about

        found: list[Shard] = []
        while (path := self.path(len(found))).exists():
            about = read_about(path)
            first, stop = about["rows"]
            bad = {int(row): reason for row, reason in about["bad"].items()}
            found.append(Shard(path, first, stop, bad))
        return found


def parser() -> argparse.ArgumentParser:
    options = new_parser("pack.py", DESCRIPTION, EXAMPLES)
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")
    options.add_argument(
        "--split", metavar="NAME", help="only the rows that have it in the column split (default: all)"
    )
    options.add_argument(
        "--dry-run", action="store_true", help="only say what it takes and brings; write nothing to --out"
    )
    picture = options.add_argument_group("frames")
    picture.add_argument(
        "--short-side",
        type=positive,
        default=128,
        metavar="N",
        help="pixels; smaller pictures stay as small as they are (default: 128)",
    )
    picture.add_argument(
        "--quality", type=positive, default=90, metavar="Q", help="of JPEG, 1 to 100 (default: 90)"
    )
    picture.add_argument(
        "--frame-step",
        type=positive,
        default=1,
        metavar="N",
        help="keep every Nth frame; a frame_stride of training then counts those (default: 1)",
    )
    work = add_work(options, time_limit=1800)
    work.add_argument(
        "--shard-mib",
        type=positive,
        default=256,
        metavar="N",
        help="size of a shard; takes three times that in memory (default: 256)",
    )
    add_max_bad_fraction(work)
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code.

    Raises:
        UserError: an option, a manifest or the output folder cannot be used.
    """
    options = parser().parse_args(argv)
    if options.quality > 100:
        raise UserError(f"--quality ({options.quality}) must be from 1 to 100")
    settings = Settings(options.short_side, options.quality, options.frame_step)

    from rich.progress import track
    from rows import class_index, read_rows, write_class_index, write_rows

    from videonorm.data import BadVideo, BadVideos

    out: Path = options.out.absolute()
    shown = printable(str(options.out))
    options.jobs = options.jobs or os.cpu_count() or 1
    names = ["manifest" if path.is_dir() else path.stem for path in options.manifests]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"manifests ({twice}) must have different names, for new ones are called the same")
    classes = class_index(options.manifests)
    packings = []
    for name, path in zip(names, options.manifests, strict=True):
        rows = [
            row
            for row in read_rows(path, options.root)
            if options.split is None or row.cells.get("split") == options.split
        ]
        if not rows:
            raise UserError(f"--split ({options.split}) must be in the column split of {path}")
        packings.append(Packing(name, rows, _digest(rows, settings), out / "shards"))
    try:
        left = []
        for packing in packings:
            _refuse_others(packing, shown)
            left += packing.rows[sum(shard.stop - shard.first for shard in packing.shards()) :]
        if left:
            _estimate(left, settings, out, shown, options)
        if options.dry_run:
            return 0
        for packing in packings:
            _pack(packing, settings, out, shown, options)
        bad = BadVideos()
        num_bad = 0
        for packing in packings:
            cells: list[dict[str, str]] = []
            for shard in track(packing.shards(), f"Writing {packing.name}.csv"):
                num_bad += len(shard.bad)
                for number, reason in shard.bad.items():
                    row = packing.rows[number]
                    bad.add(row.cells.get("split") or packing.name, [BadVideo(row.path, reason)])
                cells += _new_cells(packing, shard, out)
            write_rows(out / f"{packing.name}.csv", cells)
            print(f"{len(cells)} videos in {printable(str(out / f'{packing.name}.csv'))}")
        bad.write(out / "bad_videos.csv")
        write_class_index(out, classes)
    except OSError as error:
        raise _unwritable(shown, str(error.strerror)) from None
    if num_bad:
        print(f"{num_bad} failed; the reasons are in {printable(str(out / 'bad_videos.csv'))}")
    return int(num_bad > options.max_bad_fraction * sum(len(packing.rows) for packing in packings))


def _unwritable(shown: str, why: str) -> UserError:
    return UserError(f"--out ({shown}) must be a folder to write in, with room: {why}")


def _new_cells(packing: Packing, shard: Shard, out: Path) -> Iterator[dict[str, str]]:
    """The rows of the videos of a shard."""
    from rows import Facts

    from videonorm.data.decoding.packed import PackedReader

    good = (row for row in range(shard.first, shard.stop) if row not in shard.bad)
    for number, row in enumerate(good):
        path = shard.path / str(number)
        with PackedReader(str(path)) as video:
            height, width = video.read([0]).shape[1:3]
            rate = video.frame_rate
            duration = float(video.seconds[-1]) + (1 / rate if rate else 0.0)
            facts = Facts(duration, rate, video.num_frames, width, height, "mjpeg")
        cells = packing.rows[row].cells
        bounds = {f"source_{name}": cells[name] for name in ("start_seconds", "end_seconds") if name in cells}
        yield {
            **{name: cell for name, cell in cells.items() if f"source_{name}" not in bounds},
            **facts.cells(),
            "path": os.path.relpath(path, out),
            "source": cells["path"],
            **bounds,
        }


def _pack(packing: Packing, settings: Settings, out: Path, shown: str, options: argparse.Namespace) -> None:
    """Make the shards that are not there."""
    from rich.progress import track

    from videonorm.data.decoding.packed import join_shards

    unfinished = out / ".unfinished" / f"{packing.name}-{packing.digest}"
    unfinished.mkdir(parents=True, exist_ok=True)
    packing.folder.mkdir(exist_ok=True)
    count = len(packing.rows)
    shards = packing.shards()
    number, first = len(shards), shards[-1].stop if shards else 0

    def part(row: int) -> Path:
        return unfinished / f"{row}.safetensors"

    outcomes: dict[int, int | str] = {  # row -> bytes of its part, or why it is bad
        row: part(row).stat().st_size for row in range(first, count) if part(row).exists()
    }

    def join() -> None:
        """Make the shards whose videos are all there; in their order, so that any run makes the same."""
        nonlocal number, first
        while True:
            size, stop = 0, first
            while stop in outcomes and size < options.shard_mib * 2**20:
                outcome = outcomes[stop]
                size += outcome if isinstance(outcome, int) else 0
                stop += 1
            if stop == first or (stop < count and size < options.shard_mib * 2**20):
                return
            done = {row: outcomes.pop(row) for row in range(first, stop)}
            bad = {row: outcome for row, outcome in done.items() if isinstance(outcome, str)}
            parts = [part(row) for row in done if row not in bad]
            about = {"rows": [first, stop], "bad": bad, **settings._asdict()}
            # All that is unfinished is in one folder: a killed run leaves nothing elsewhere.
            join_shards(unfinished / "shard", parts, about=about, short_side=settings.short_side)
            os.replace(unfinished / "shard", packing.path(number))
            for path in parts:
                path.unlink()
            number, first = number + 1, stop

    join()
    left = [row for row in range(first, count) if row not in outcomes]
    todo = [_job(packing.rows[row], str(part(row)), settings) for row in left]
    results = run_all(pack, todo, jobs=options.jobs, time_limit=options.time_limit)
    for position, result in track(results, f"Packing {packing.name} to {shown}", total=len(todo)):
        if isinstance(result, Packed):
            outcomes[left[position]] = result.bytes
        elif result.stop:
            raise _unwritable(shown, result.reason)
        else:
            print(f"bad: {printable(todo[position].source)} {printable(result.reason)}", flush=True)
            outcomes[left[position]] = result.reason
        join()
    shutil.rmtree(unfinished, ignore_errors=True)
    with contextlib.suppress(OSError):
        unfinished.parent.rmdir()  # unless another run is at work there


def _refuse_others(packing: Packing, shown: str) -> None:
    """Raise UserError if there are shards of that name with other frames."""
    if not packing.folder.is_dir():
        return
    others = re.compile(
        rf"{re.escape(packing.name)}-(?!{packing.digest}-)[0-9a-f]{{{DIGITS}}}-\d{{5,}}\.safetensors"
    )
    if other := next((name for name in sorted(os.listdir(packing.folder)) if others.fullmatch(name)), None):
        raise UserError(
            f"--out ({shown}) must not hold {packing.name} packed in another way, of other files or with "
            f"other settings, as shards/{printable(other)} is"
        )


def _digest(rows: "list[Row]", settings: Settings) -> str:
    """Of all that the frames depend on; other packings never share the name of a shard."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for row in rows:
        try:
            status = os.stat(row.path)
            stamp = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):
            stamp = []  # missing, or behind a URL
        digest.update(json.dumps([row.path, row.start_seconds, row.end_seconds, stamp]).encode())
    return digest.hexdigest()[:DIGITS]


def _estimate(
    rows: "list[Row]", settings: Settings, out: Path, shown: str, options: argparse.Namespace
) -> None:
    """Pack a few videos aside, and print what all ``rows`` take and bring.

    Raises:
        UserError: they do not fit on the disk.
    """
    from datetime import timedelta

    from rich.filesize import decimal
    from rich.progress import track

    count = min(SAMPLED, len(rows))
    sample = [rows[number * len(rows) // count] for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="videonorm-pack-") as folder:
        tried = [
            _job(row, os.path.join(folder, f"{n}.safetensors"), settings) for n, row in enumerate(sample)
        ]
        results = run_all(pack, tried, jobs=options.jobs, time_limit=options.time_limit)
        outcomes = dict(track(results, "Packing a sample", total=count))
        for outcome in outcomes.values():
            if isinstance(outcome, Failed) and outcome.stop:
                raise UserError(f"TMPDIR ({tempfile.gettempdir()}) must have room: {outcome.reason}")
        packed = [(tried[n], outcome) for n, outcome in outcomes.items() if isinstance(outcome, Packed)]
        if not packed:
            print(f"no estimate: none of the {count} videos tried can be read")
            return
        times = [_clip_times(*pair) for pair in packed[:MEASURED]]
    each = statistics.mean(outcome.bytes for _, outcome in packed)
    before = statistics.mean(outcome.source_bytes for _, outcome in packed)
    passed = statistics.mean(outcome.seconds for _, outcome in packed)
    old, new = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    free = shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.exists())).free
    print(
        f"{len(rows):,} videos to pack, going by {len(packed)} of them:\n"
        f"  disk: about {decimal(round(each * len(rows)))}, {decimal(round(each))} a video, "
        f"{each / before:.1f} times the videos; {decimal(free)} are free\n"
        f"  loading 8 frames, stride 8, at short side {settings.short_side}: {old:.1f} ms from the videos, "
        f"{new:.1f} ms packed, {old / new:.0f} times as fast (CPU time of one core)\n"
        f"  time: about {timedelta(seconds=round(passed * len(rows) / options.jobs))} (h:mm:ss) "
        f"with --jobs {options.jobs}"
    )
    if (need := round(SPARE * each * len(rows))) > free:
        raise UserError(f"--out ({shown}) must have room for about {decimal(need)}, and has {decimal(free)}")


def _clip_times(job: Job, packed: Packed) -> tuple[float, float]:
    """CPU seconds for a clip of the source and of its packed frames: the median of the same three moments."""
    from videonorm.data import open_video
    from videonorm.data.decoding.packed import PackedReader

    short_side, step = job.settings.short_side, job.settings.frame_step
    medians = []
    for opener, path, first, stop, stride in (
        (open_video, job.source, packed.first, packed.stop, 8 * step),
        (PackedReader, f"{job.target}/0", 0, len(range(packed.first, packed.stop, step)), 8),
    ):
        last_start = max(stop - 8 * stride, first)
        starts = [first + (last_start - first) * part // 4 for part in (1, 2, 3)]
        spent = []
        for start in [starts[0], *starts]:
            began = time.process_time()
            with opener(path) as video:
                video.read(range(start, stop, stride)[:8], short_side)
            spent.append(time.process_time() - began)
        medians.append(statistics.median(spent[1:]))  # the first also builds the packet index
    return medians[0], medians[1]


def _job(row: "Row", target: str, settings: Settings) -> Job:
    return Job(row.path, target, row.start_seconds, row.end_seconds, settings)


def pack(job: Job) -> Packed | Failed:
    """Pack one video."""
    from videonorm.data import BadVideoError, open_video
    from videonorm.data.decoding.container import check_file
    from videonorm.data.decoding.packed import file_of, pack_video, write_shard
    from videonorm.data.decoding.reader import frames_between

    began = time.monotonic()
    short_side, quality, frame_step = job.settings
    try:
        with open_video(job.source) as video:
            stretch = job.start_seconds, job.end_seconds
            first, stop = frames_between(job.source, video.seconds, *stretch)
            packed = pack_video(
                video, first, stop, short_side=short_side, quality=quality, frame_step=frame_step
            )
        write_shard(job.target, [packed], short_side=short_side)
        source_bytes = check_file(file_of(job.source)).size
        return Packed(os.path.getsize(job.target), source_bytes, time.monotonic() - began, first, stop)
    except BadVideoError as error:
        return Failed(error.reason)
    except OSError as error:
        if error.errno in FATAL:
            return Failed(str(error.strerror), stop=True)
        raise


if __name__ == "__main__":
    run(main)
