"""What the scripts share at their edge: exit codes, and arguments that say what they must be."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from videonorm.errors import UserError


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Run ``main`` on the command line; a user's mistake is printed as one sentence with exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


def new_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser for a script that reads manifests."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "manifests",
        type=Path,
        nargs="+",
        metavar="manifest",
        help="CSV, list, or folder of class folders",
    )
    parser.add_argument(
        "--root", metavar="DIR|URL", help="where relative paths start (default: at each manifest)"
    )
    return parser


def add_work(parser: argparse.ArgumentParser, time_limit: float) -> argparse._ArgumentGroup:
    """The options of work on many videos; ``time_limit`` is the default, in seconds."""
    work = parser.add_argument_group("work")
    work.add_argument("--jobs", type=positive, metavar="N", help="videos at a time (default: cores)")
    work.add_argument(
        "--time-limit",
        type=seconds,
        default=time_limit,
        metavar="S",
        help="seconds for a video (default: %(default)g)",
    )
    return work


def add_max_bad_fraction(work: argparse._ArgumentGroup) -> None:
    work.add_argument(
        "--max-bad-fraction",
        type=fraction,
        default=0.05,
        metavar="F",
        help="share of the videos that may be bad (default: 0.05)",
    )


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"({text}) must be a whole number, 1 or more")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"({text}) must be a number of seconds above 0")
    return value


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"({text}) must be a number from 0 to 1")
    return value


def printable(text: str) -> str:
    """A path as a terminal takes it: a name may hold bytes that are no text."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
