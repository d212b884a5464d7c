"""The options of a benchmark: defaults that --quick makes small, help that is the module's docstring."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videonorm.options import Parser


class Default(NamedTuple):
    """A value, and the one that --quick has in its place: ``default[options.quick]``."""

    full: Any
    quick: Any


class BenchmarkParser(Parser):
    """What all benchmarks have: --out, --quick, and options that choose what is measured.

    Args:
        doc: docstring of the benchmark's module; its first paragraph opens the help, the others close it.
        columns: of the results, each with what it holds.
        quick: what --quick measures.
    """

    def __init__(self, name: str, doc: str | None, columns: Mapping[str, str], quick: str) -> None:
        summary, _, details = (doc or "").replace("``", "`").partition("\n\n")
        width = max(map(len, columns))
        rows = "\n".join(f"    {column:{width}}  {text}" for column, text in columns.items())
        super().__init__(
            prog=f"videonorm bench {name}",
            description=summary,
            epilog=f"{details.rstrip()}\n\nColumns of the results:\n\n{rows}",
        )
        self.add_argument(
            "--out",
            type=Path,
            metavar="FILE.csv",
            default=Path("runs") / "bench" / f"{name}.csv",
            help="the results (default: %(default)s); a run that is stopped leaves FILE.csv.partial",
        )
        self.add_argument("--quick", action="store_true", help=f"for a try: {quick}")

    def add(self, flag: str, text: str, full: Any, quick: Any = None, **how: Any) -> None:
        """An option, of several values if its default is a tuple; --quick may have a default of its own."""
        default = Default(full, full if quick is None else quick)
        shown = [_text(value) for value in dict.fromkeys(default) if value != ()]
        how = {"nargs": "+" if isinstance(full, tuple) else None, **how}
        self.add_argument(flag, default=default, help=f"{text} (default: {'; quick: '.join(shown)})", **how)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options; `given` names those that were not left to their defaults."""
        options = super().parse_args(args, namespace)
        left = {name: value for name, value in vars(options).items() if isinstance(value, Default)}
        options.given = vars(options).keys() - left
        for name, value in left.items():
            setattr(options, name, value[options.quick])
        return options


def add_device(parser: Parser) -> None:
    text = "where to measure: cpu, cuda, cuda:1, ... (default: cuda if there is one)"
    parser.add_argument("--device", default="auto", help=text)


def _text(value: Any) -> str:
    """Values as they are written on the command line: 8x8 16x4."""
    if not isinstance(value, tuple):
        return str(value)
    return " ".join("x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)
