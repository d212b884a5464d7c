"""What the scripts share at their edge: exit codes, common options, the sentences of what they say."""

import contextlib
import os
import shutil
import signal
import sys
import warnings
from argparse import _ArgumentGroup
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from videonorm.errors import UserError
from videonorm.machine import available_cores
from videonorm.options import Parser, fraction, positive_integer, seconds

Step = TypeVar("Step")


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Run ``main`` on the command line; what is the user's to mend is one sentence with exit code 2."""
    name = os.path.basename(sys.argv[0])
    warnings.formatwarning = lambda message, *_, **__: f"{name}: {message}\n"
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be printed
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError) as error:
        reason = _reason(error) if isinstance(error, OSError) else error
        print(f"{os.path.basename(sys.argv[0])}: {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


def help_of(doc: str | None) -> dict[str, str]:
    """Description and epilog for ``Parser`` of a script's docstring: the options come before the examples."""
    description, examples, rest = (doc or "").partition("examples:\n")
    return {"description": description, "epilog": examples + rest}


def manifests_parser(prog: str, doc: str | None) -> Parser:
    """A parser for a script that reads manifests, with its docstring as the help."""
    parser = Parser(prog=prog, **help_of(doc))
    parser.add_argument(
        "manifests", type=Path, nargs="+", metavar="manifest", help="CSV, list, or folder of class folders"
    )
    parser.add_argument(
        "--root", metavar="DIR|URL", help="where relative paths start (default: at each manifest)"
    )
    return parser


def add_out_folder(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")


def add_work(parser: Parser, time_limit_seconds: float) -> _ArgumentGroup:
    """The options of work on many videos."""
    work = parser.add_argument_group("work")
    work.add_argument(
        "--num_workers",
        type=positive_integer,
        default=available_cores(),
        metavar="N",
        help="videos at a time (default: cores)",
    )
    work.add_argument(
        "--time_limit_seconds",
        type=seconds,
        default=time_limit_seconds,
        metavar="S",
        help="what one video may take before it counts as bad (default: %(default)g)",
    )
    return work


def add_max_bad_fraction(work: _ArgumentGroup) -> None:
    work.add_argument(
        "--max_bad_fraction",
        type=fraction,
        default=0.05,
        metavar="X",
        help="share of the videos that may be bad (default: 0.05)",
    )


@contextlib.contextmanager
def writing(out: Path, must: str, option: str = "--out") -> Iterator[None]:
    """An error of writing becomes the user's: ``must`` completes "--out (OUT) must be"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} ({printable(out)}) must be {must}: {_reason(error, out)}") from None


def _reason(error: OSError, known: Path | None = None) -> str:
    """What is wrong, and with which file unless that is ``known``."""
    what = error.strerror or str(error) or type(error).__name__
    if error.filename is None or os.fsdecode(error.filename) == str(known):
        return what
    return f"{printable(os.fsdecode(error.filename))}: {what}"


@contextlib.contextmanager
def unfinished_folder(out: Path, name: str) -> Iterator[Path]:
    """A folder below ``out`` for files in the making, the same for the same name; at the end it goes.

    It stays where the script is stopped, with what is whole. Files that were being written then are removed
    at the next start; a process that still writes one fails at its rename.
    """
    folder = out / ".unfinished" / name
    folder.mkdir(parents=True, exist_ok=True)
    for aside in folder.glob(".*"):
        aside.unlink(missing_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # unless another run is at work there


def progress(steps: Iterable[Step], title: str, total: int) -> Iterable[Step]:
    """``steps``, with a bar on the terminal if there is one."""
    from rich.progress import track

    return track(steps, printable(title), total, transient=True, disable=not sys.stdout.isatty())


def printable(text: object) -> str:
    """A path as a terminal takes it: a name may hold bytes that are no text."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
