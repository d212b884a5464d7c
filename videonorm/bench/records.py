"""The rows of a benchmark, and what they were made on."""

import csv
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from videonorm import __version__
from videonorm.errors import UserError
from videonorm.machine import available_cores, commit

Row = dict[str, Any]

ORIGIN = {
    "device": "name of the GPU, or the number of CPU cores",
    "torch": "version of torch",
    "cuda": "version of CUDA that torch was built for",
    "driver": "version of the GPU's driver",
    "videonorm": "version of videonorm",
    "commit": "git commit of videonorm, with -dirty if a file was changed; empty outside a checkout",
}

LOADING_ORIGIN = {
    "device": "name of the processor, and the number of its cores that were used",
    **{name: f"version of {name}" for name in ("torch", "av", "torchcodec", "decord", "pytorchvideo")},
    **{name: ORIGIN[name] for name in ("videonorm", "commit")},
}


def choose_device(name: str | None) -> torch.device:
    """The device of an option `--device`, or the best there is.

    Raises:
        UserError: CUDA is asked for and there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device (cuda) must be a device of this machine, and torch finds no GPU here")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def origin(device: torch.device) -> Row:
    """The columns of ORIGIN."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{available_cores()} CPU cores",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "driver": _driver() if cuda else None,
        "videonorm": __version__,
        "commit": commit(),
    }


def loading_origin() -> Row:
    """The columns of LOADING_ORIGIN; no version where a package is not installed."""
    row: Row = {"device": f"{_processor()}, {available_cores()} cores"}
    for name in ("torch", "av", "torchcodec", "decord", "pytorchvideo"):
        try:
            row[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            row[name] = None
    return row | {"videonorm": __version__, "commit": commit()}


def _processor() -> str:
    path = Path("/proc/cpuinfo")  # of Linux
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _driver() -> str | None:
    path = Path("/proc/driver/nvidia/version")  # absent on Windows
    found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", path.read_text()) if path.exists() else None
    return found[1] if found else None


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

    def __enter__(self) -> "Records":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out ({self.path}) must be a file that can be written: {error}") from error
        self._writer = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        self._writer.writeheader()
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is None:
            os.replace(self.partial, self.path)

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
