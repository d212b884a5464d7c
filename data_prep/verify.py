"""Open and decode the videos of manifests, and name those that cannot be used; ``--help`` says how."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from script import add_max_bad_fraction, add_work, new_parser, printable, run
from workers import Failed, run_all

from videonorm.errors import UserError

if TYPE_CHECKING:
    from videonorm.data import Decoder

DESCRIPTION = """\
Open the videos of manifests with videonorm's own decoders, decode the first, middle and last frame of each,
or all with --full, and write those that cannot be used to a CSV file with the columns path, reason, split.
Damage in mid-file is found by --full with pyav, as far as the decoder can see it.
"""
EXAMPLES = """\
examples:
  python data_prep/verify.py k400/train.csv k400/val.csv
  python data_prep/verify.py k400/val.csv --full --max-bad-fraction 0
  python data_prep/verify.py k400_256/train.csv --decoder decord --out decord_bad_videos.csv

exit codes: 0 good enough; 1 more than --max-bad-fraction are bad; 2 an argument or a manifest is wrong.
"""
AT_A_TIME = 2048  # frames in memory under --full, of at most about 2 KiB each
SMALL = 16  # short side that --full scales to: every frame is decoded, few bytes are kept


class Check(NamedTuple):
    """What is to be decoded of one video."""

    path: str
    start_seconds: float | None
    end_seconds: float | None
    decoder: "Decoder"
    full: bool


def parser() -> argparse.ArgumentParser:
    options = new_parser("verify.py", DESCRIPTION, EXAMPLES)
    options.add_argument("--full", action="store_true", help="decode every frame")
    options.add_argument(
        "--decoder",
        choices=("auto", "pyav", "torchcodec", "decord"),
        default="auto",
        help="the one to train with (default: auto, which is pyav)",
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path("bad_videos.csv"),
        metavar="FILE",
        help="the bad videos (default: bad_videos.csv)",
    )
    work = add_work(options, time_limit=600)
    add_max_bad_fraction(work)
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code.

    Raises:
        UserError: an option or a manifest cannot be used.
    """
    options = parser().parse_args(argv)

    from rich.progress import track
    from rows import read_rows

    from videonorm.data import BadVideo, BadVideos, check_decoder
    from videonorm.data.decoding.location import without_credentials

    check_decoder(options.decoder)
    splits: dict[Check, str] = {}  # val and test may share a video
    for path in options.manifests:
        for row in read_rows(path, options.root):
            check = Check(row.path, row.start_seconds, row.end_seconds, options.decoder, options.full)
            splits.setdefault(check, row.cells.get("split") or path.stem)
    checks = list(splits)
    bad = BadVideos()
    num_bad = 0
    results = run_all(verify, checks, jobs=options.jobs or os.cpu_count() or 1, time_limit=options.time_limit)
    for number, result in track(results, "Verifying", total=len(checks)):
        if result is None:
            continue
        num_bad += 1
        check = checks[number]
        if bad.add(splits[check], [BadVideo(check.path, result.reason)]):
            named = printable(without_credentials(check.path))
            print(f"bad: {named} {printable(result.reason)}", flush=True)
    try:
        bad.write(options.out)
    except OSError as error:
        raise UserError(f"--out ({options.out}) must be writable: {error.strerror}") from None
    print(f"{num_bad} of {len(checks)} videos are bad: {printable(str(options.out))}")
    return int(num_bad > options.max_bad_fraction * len(checks))


def verify(check: Check) -> Failed | None:
    """Decode what is asked for; ``None`` if that works."""
    from videonorm.data import BadVideoError, open_video
    from videonorm.data.decoding.reader import frames_between

    try:
        with open_video(check.path, check.decoder) as video:
            stretch = check.start_seconds, check.end_seconds
            first, stop = frames_between(check.path, video.seconds, *stretch)
            if not check.full:
                video.read(sorted({first, (first + stop - 1) // 2, stop - 1}))
                return None
            for begin in range(first, stop, AT_A_TIME):
                video.read(range(begin, min(begin + AT_A_TIME, stop)), SMALL)
    except BadVideoError as error:
        return Failed(error.reason)
    return None


if __name__ == "__main__":
    run(main)
