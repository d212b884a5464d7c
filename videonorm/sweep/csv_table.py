"""Tables of rows that are made of typed fields: results.csv, and what a study decides by them."""

import csv
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from videonorm.errors import UserError
from videonorm.files import from_cell, open_new, to_cell

T = TypeVar("T")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; see ``to_cell``. None is an empty field."""
    with open_new(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: to_cell(of) if isinstance(of, str) else of for key, of in row.items()})


def read_table(path: Path, name: str, whose: str, make: Callable[[dict[str, str]], T]) -> list[T]:
    """The rows of a table.

    Args:
        name: of the table, and ``whose`` it is, for errors.
        make: what a row is, of its texts by column; KeyError, TypeError or ValueError where it is none.

    Raises:
        UserError: the file is missing, or is another table.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [make(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise UserError(f"{name} ({path}) must be a readable file: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} ({path}) must have the columns of a {whose}: {error}") from error


def from_text(kind: Any, text: str) -> Any:
    """The text of a field as a ``kind``, such as int or float | None."""
    wanted, *others = typing.get_args(kind) or (kind,)
    if others and not text:
        return None
    return from_cell(text) if wanted is str else wanted(text)
