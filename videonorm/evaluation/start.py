"""What a network starts with: a file of weights, whoever trained them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from videonorm.files import sha256
from videonorm.models import Report, load_foreign
from videonorm.models.weights.reading import file_of


@dataclass(frozen=True)
class Start:
    """Weights that were loaded, and what was not.

    Attributes:
        new: the parts of the network that were said to be others.
    """

    file: Path
    sha256: str
    new: Sequence[str]
    report: Report

    def record(self) -> dict[str, Any]:
        """For run.json and checkpoints."""
        return {
            "name": self.file.name,
            "sha256": self.sha256,
            "layout": self.report.layout,
            "tensors": self.report.tensors,
            "new": list(self.new),
        }


def load_start(network: nn.Module, path: str | Path, new: Sequence[str], *, name: str, option: str) -> Start:
    """Load a file into a network; see `load_foreign`.

    Raises:
        UserError: it cannot be read or does not fit. The network is as it was.
    """
    report = load_foreign(network, Path(path), new, name=name, option=option)
    return Start(Path(path), sha256(file_of(path)), new, report)
