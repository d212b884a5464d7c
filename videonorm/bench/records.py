"""The rows of a benchmark, and what they were made on."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.files import new_file
from videonorm.machine import available_cores, commit, gpu_driver, processor, versions

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch

Row = dict[str, Any]

NOT_INSTALLED = "not installed: "  # and the packages: an error of a contender
PACKAGES = ("av", "torchcodec", "decord", "pytorchvideo")  # that loading may depend on
_DEVICE = {"device": "name of the GPU, or of the processor and the number of its cores that were used"}
_CODE = {
    "videonorm": "version",
    "commit": "of videonorm, -dirty if a file was changed; empty outside a checkout",
}
ORIGIN = {
    **_DEVICE,
    "torch": "version",
    "cuda": "version that torch was built for",
    "driver": "version of the GPU's driver",
    **_CODE,
}
LOADING_ORIGIN = _DEVICE | dict.fromkeys(("torch", *PACKAGES), "version") | _CODE


def origin(columns: Iterable[str], device: torch.device) -> Row:
    """Those of the columns that say what is measured on; no version where a package is not installed."""
    facts: Row = versions(*PACKAGES) | {"commit": commit()}
    if device.type == "cuda":
        import torch

        facts |= {"device": torch.cuda.get_device_name(device), "driver": gpu_driver()}
    else:
        facts |= {"device": f"{processor()}, {available_cores()} cores", "cuda": None, "driver": None}
    return {name: facts[name] for name in columns if name in facts}


class Records:
    """Use as a context: rows go to PATH.partial as they come, which becomes PATH at the end.

    So a run that is stopped or killed leaves PATH as it was and all its rows in PATH.partial.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.rows: list[Row] = []
        self._columns = list(columns)

    def __enter__(self) -> Records:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out ({self.path}) must be a file that can be written: {error}") from error
        self._writer = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        self._writer.writeheader()
        self._file.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            with new_file(self.path) as aside:
                os.replace(self.partial, aside)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; a column that a row has not is left empty."""
        for row in rows:
            text = {name: _text(value) for name, value in row.items()}
            self._writer.writerow(text)
            self.rows.append({name: text.get(name, "") for name in self._columns})
        self._file.flush()


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file, all as text, as `Records.rows` has them."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def sentence(error: BaseException) -> str:
    """An error on one line, for a column of a table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
