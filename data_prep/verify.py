"""Open the videos of manifests with videonorm's own decoders, decode the first, middle and last frame of
each, or all with --full, and write those that cannot be used to a CSV file with the columns path, reason,
split. Damage in mid-file is found by --full with pyav, as far as the decoder can see it.

examples:
  python data_prep/verify.py k400/train.csv k400/val.csv
  python data_prep/verify.py k400/val.csv --full --max_bad_fraction 0
  python data_prep/verify.py k400_256/train.csv --decoder decord --out decord_bad_videos.csv

exit codes: 0 good enough; 1 more than --max_bad_fraction are bad; 2 an argument or a manifest is wrong.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from script import add_max_bad_fraction, add_work, manifests_parser, run, writing
from workers import Failed, run_all

from videonorm.files import check_writable
from videonorm.options import Parser

if TYPE_CHECKING:
    from rows import Row

    from videonorm.data import Decoder

AT_A_TIME = 2048  # frames in memory under --full, of at most about 2 KiB each
WRITABLE = "a file that can be written"
SMALL = 16  # short side that --full scales to: every frame is decoded, few bytes are kept


class Check(NamedTuple):
    """What is to be decoded of one video."""

    path: str
    start_seconds: float | None
    end_seconds: float | None
    decoder: "Decoder"
    full: bool


def parser() -> Parser:
    options = manifests_parser("verify.py", __doc__)
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
    add_max_bad_fraction(add_work(options, time_limit_seconds=600))
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code. Raises UserError for what it is given and cannot use."""
    options = parser().parse_args(argv)

    from rows import BadRows, read_all, say_bad

    from videonorm.data import check_decoder

    check_decoder(options.decoder)
    rows_of: dict[Check, list[Row]] = {}  # val and test may share a video
    for row in read_all(options.manifests, options.root):
        check = Check(row.path, row.start_seconds, row.end_seconds, options.decoder, options.full)
        rows_of.setdefault(check, []).append(row)
    checks = list(rows_of)
    with writing(options.out, WRITABLE):
        check_writable(options.out)
    bad = BadRows()
    for number, result in run_all(verify, checks, "Verifying", options):
        if isinstance(result, Failed) and bad.add(rows_of[checks[number]], result.reason):
            say_bad(checks[number].path, result.reason)
    with writing(options.out, WRITABLE):
        return bad.write(options.out, len(checks), options.max_bad_fraction)


def verify(check: Check) -> None:
    """Decode what is asked for.

    Raises:
        BadVideoError: it cannot be decoded.
    """

    from videonorm.data import open_video
    from videonorm.data.decoding.reader import frames_between

    with open_video(check.path, check.decoder) as video:
        first, stop = frames_between(check.path, video.seconds, check.start_seconds, check.end_seconds)
        if not check.full:
            video.read(sorted({first, (first + stop - 1) // 2, stop - 1}))
            return
        for begin in range(first, stop, AT_A_TIME):
            video.read(range(begin, min(begin + AT_A_TIME, stop)), SMALL)


if __name__ == "__main__":
    run(main)
