"""Decode the videos of manifests once and keep their frames as JPEG at the size that training wants, in
shards of a few hundred MiB: for sweeps that read the same videos hundreds of times. A clip is then read at
the price of its own frames. Writes OUT/shards/..., a manifest for each one given, under its name, and
bad_videos.csv.

Before it starts it packs a few of the videos aside, and says what all of them take on disk, how much faster
loading becomes and how long packing takes. What lies outside start_seconds and end_seconds is left out;
pictures are upright, and never enlarged. Run again, a run that was stopped in any way goes on. A video that
fails is named with its reason and left out of the new manifest.

examples:
  python data_prep/pack.py k400/train.csv k400/val.csv --out k400_packed --dry_run
  python data_prep/pack.py k400/train.csv k400/val.csv --out k400_packed
  python data_prep/pack.py ssv2/train.csv --out ssv2_packed --short_side 256 --frame_step 2

exit codes: 0 done; 1 more than --max_bad_fraction of the videos failed; 2 an argument or a manifest is wrong.
"""

import shutil
import statistics
import tempfile
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from script import (
    add_max_bad_fraction,
    add_out_folder,
    add_work,
    manifests_parser,
    printable,
    progress,
    run,
    writing,
)
from workers import Failed, run_all

from videonorm.errors import UserError
from videonorm.files import check_writable, write
from videonorm.options import Parser, positive_integer

if TYPE_CHECKING:
    from packing import Packing

SAMPLED = 12  # videos packed before all others
MEASURED = 5  # of them, those whose loading is timed
SPARE = 1.1  # times the disk estimated must be free
ROOM = "a folder to write in, with room"


def parser() -> Parser:
    options = manifests_parser("pack.py", __doc__)
    add_out_folder(options)
    options.add_argument(
        "--split", metavar="NAME", help="only the rows that have it in the column split (default: all)"
    )
    options.add_argument(
        "--dry_run", action="store_true", help="only say what it takes and brings; write nothing to --out"
    )
    picture = options.add_argument_group("frames")
    picture.add_argument(
        "--short_side",
        type=positive_integer,
        default=128,
        metavar="PIXELS",
        help="smaller pictures stay as small as they are (default: 128)",
    )
    picture.add_argument(
        "--quality", type=_quality, default=90, metavar="Q", help="of JPEG, 1 to 100 (default: 90)"
    )
    picture.add_argument(
        "--frame_step",
        type=positive_integer,
        default=1,
        metavar="N",
        help="keep every Nth frame; a frame_stride of training then counts those (default: 1)",
    )
    work = add_work(options, time_limit_seconds=1800)
    work.add_argument(
        "--shard_mib",
        type=positive_integer,
        default=256,
        metavar="N",
        help="size of a shard; takes three times that in memory (default: 256)",
    )
    add_max_bad_fraction(work)
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code. Raises UserError for what it is given and cannot use."""
    options = parser().parse_args(argv)

    from packing import Packing, Settings
    from rows import BadRows, read_by_name, read_classes, write_rows

    out: Path = options.out.absolute()
    settings = Settings(options.short_side, options.quality, options.frame_step)
    packings = []
    for name, rows in read_by_name(options.manifests, options.root).items():
        if options.split is not None:
            rows = [row for row in rows if row.cells.get("split") == options.split]
            if not rows:
                raise UserError(f"--split ({options.split}) must be in the column split of {name}")
        packings.append(Packing(name, rows, settings, out))
    classes = read_classes(options.manifests)
    with writing(out, ROOM):
        left = []
        for packing in packings:
            packing.refuse_others()
            packed = sum(shard.stop - shard.first for shard in packing.shards())
            left += [(packing, row) for row in range(packed, len(packing.rows))]
        if left:
            _estimate(left, out, options)
        if options.dry_run:
            return 0
        for name in (*(packing.name for packing in packings), "bad_videos"):
            check_writable(out / f"{name}.csv")
        for packing in packings:
            packing.make(options)
        bad = BadRows()
        for packing in packings:
            cells: list[dict[str, str]] = []
            shards = packing.shards()
            for shard in progress(shards, f"Writing {packing.name}.csv", len(shards)):
                for row, reason in shard.bad.items():
                    bad.add([packing.rows[row]], reason)
                cells += packing.cells(shard)
            path = out / f"{packing.name}.csv"
            write_rows(path, cells)
            print(f"{len(cells)} videos in {printable(path)}")
        if classes is not None:
            write(out / "classes.txt", classes)
        num_videos = sum(len(packing.rows) for packing in packings)
        return bad.write(out / "bad_videos.csv", num_videos, options.max_bad_fraction)


def _estimate(left: "Sequence[tuple[Packing, int]]", out: Path, options: Namespace) -> None:
    """Pack a few videos aside, and print what all of them take and bring.

    Raises:
        UserError: they do not fit on the disk.
    """
    from datetime import timedelta

    from packing import pack
    from rich.filesize import decimal
    from video import clip_seconds

    count = min(SAMPLED, len(left))
    sample = [left[number * len(left) // count] for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="videonorm-pack-") as folder:
        jobs = [packing.job(row, Path(folder, f"{n}.safetensors")) for n, (packing, row) in enumerate(sample)]
        with writing(Path(tempfile.gettempdir()), ROOM, "TMPDIR"):
            results = dict(run_all(pack, jobs, "Packing a sample", options))
        packed = {number: of for number, of in results.items() if not isinstance(of, Failed)}
        if not packed:
            print(f"no estimate: none of the {count} videos tried can be read")
            return
        side, timed = options.short_side, [jobs[number] for number in list(packed)[:MEASURED]]
        stride = 8 * options.frame_step
        times = [
            (
                clip_seconds(job.source, *job[2:4], short_side=side, frame_stride=stride),
                clip_seconds(f"{job.target}/0", short_side=side),
            )
            for job in timed
        ]
    each, before, passed = (statistics.mean(column) for column in zip(*packed.values(), strict=True))
    old, new = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    free = shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.exists())).free
    time = timedelta(seconds=round(passed * len(left) / options.num_workers))
    print(
        f"{len(left):,} videos to pack, going by {len(packed)} of them:\n"
        f"  disk: about {decimal(round(each * len(left)))}, {decimal(round(each))} a video, "
        f"{each / before:.1f} times the videos; {decimal(free)} are free\n"
        f"  loading 8 frames, stride 8, at short side {side}: {old:.1f} ms from the videos, "
        f"{new:.1f} ms packed, {old / new:.0f} times as fast (CPU time of one core)\n"
        f"  time: about {time} (h:mm:ss) with --num_workers {options.num_workers}"
    )
    if (need := round(SPARE * each * len(left))) > free:
        raise UserError(
            f"--out ({printable(out)}) must have room for about {decimal(need)}, and has {decimal(free)}"
        )


def _quality(text: str) -> int:
    value = positive_integer(text)
    if value > 100:
        raise ArgumentTypeError(f"({text}) must be from 1 to 100")
    return value


if __name__ == "__main__":
    run(main)
