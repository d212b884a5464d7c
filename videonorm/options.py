"""The options of commands: a parser whose errors are one sentence, types that say what a value must be."""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from videonorm.errors import UserError
from videonorm.messages import did_you_mean


class _Formatter(argparse.HelpFormatter):
    """Wraps a description or epilog that is one paragraph; one with lines of its own stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text.strip():
            return super()._fill_text(text, width, indent)
        return "".join(indent + line for line in text.splitlines(keepends=True))


class Parser(argparse.ArgumentParser):
    """argparse's, but that a user's mistake is a UserError, with what was perhaps meant.

    Options are spelled as in the recipes, `--num_clips`; `--num-clips` is a mistake with that hint.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        spelled = self._long_options()
        meant = [option[2:] for option in spelled if option != "--help"]
        for given in (str(argument).partition("=")[0] for argument in args):
            # First of all: argparse would say that the option that was meant is missing.
            if given.startswith("--") and given not in ("--", *spelled):
                hint = did_you_mean(given[2:].replace("-", "_"), meant, "--")
                self.error(f"{given} is no option here{hint}")
        return super().parse_args(args, namespace)

    def _long_options(self) -> list[str]:
        own = [option for option in self._option_string_actions if option.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                own += [option for parser in action.choices.values() for option in parser._long_options()]
        return own

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def run_one_of(
    commands: Mapping[str, str], argv: list[str], *, name: str, about: str, kind: str, modules: str
) -> None:
    """Run the command that ``argv`` begins with: its module has a `parser()` and a `run(options)`.

    Help and a mistyped name answer at once: whatever is heavy is imported when it is run.

    Args:
        commands: by name, what each is for.
        name: of what they are commands of, as in `videonorm NAME COMMAND`.
        about: a sentence on all of them.
        kind: the word for one of them.
        modules: of the commands, with {} for the name.

    Raises:
        UserError: there is no such command, or it has no such option.
    """
    one, *given = argv or ["--help"]
    if one in ("-h", "--help"):
        width = max(map(len, commands))
        rows = "\n".join(f"  {command:{width}}  {text}" for command, text in commands.items())
        usage = f"usage: videonorm {name} {kind.upper()} [options]\n\n{about}\n\n{kind}s:\n{rows}\n\n"
        print(f"{usage}`videonorm {name} {kind.upper()} --help` lists a {kind}'s options.")
        return
    if one not in commands:
        what = name if kind == "command" else kind
        raise UserError(f"{what} ({one}) must be one of {', '.join(commands)}{did_you_mean(one, commands)}")
    module = importlib.import_module(modules.format(one))
    module.run(module.parser().parse_args(given))


def add_trust(parser: Parser, what: str) -> None:
    """Args:
    what: describes a network.
    """
    parser.add_argument(
        "--trust",
        action="store_true",
        help=f"let {what} run code, if you know who made it: it may then name any class that can be "
        "imported, such as a network of your own, not just networks and layers of videonorm, torch.nn, "
        "torchvision and pytorchvideo",
    )


def positive_integer(text: str) -> int:
    """A whole number of at least 1."""
    return _whole_number(text, 1)


def whole_number(text: str) -> int:
    """A whole number of at least 0."""
    return _whole_number(text, 0)


def seconds(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"({text}) must be a number of seconds above 0")
    return value


def positive_number(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"({text}) must be a number above 0")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"({text}) must be a number from 0 to 1")
    return value


def product_of(count: int, form: str) -> Callable[[str], tuple[int, ...]]:
    """The type of an option that is so many whole numbers with an x between them.

    Args:
        form: what they are, with an example.
    """

    def parse(text: str) -> tuple[int, ...]:
        try:
            numbers = tuple(map(positive_integer, text.split("x")))
        except argparse.ArgumentTypeError:
            numbers = ()
        if len(numbers) != count:
            raise argparse.ArgumentTypeError(f"({text}) must be {form}")
        return numbers

    return parse


def _whole_number(text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"({text}) must be a whole number, {least} or more")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
