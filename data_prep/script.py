"""What the scripts share at their edge: exit codes, and arguments that say what they must be."""

import argparse
import os
import sys
from collections.abc import Callable
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
