"""The file of features, made in parts that are kept: the same file, however often its making was stopped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videonorm.evaluation.kept_parts import KeptParts, write_arrays


class FeatureFile(KeptParts):
    """An .npz file in the making; its parts have the same arrays, and are in the folder ``FILE.npz.parts``.

    Args:
        path: of the file.
        asked, num_videos, batch_size: see ``KeptParts``.

    Raises:
        UserError: the folder keeps parts of something else, or another process is at this.
    """

    work = "extraction"

    def __init__(self, path: Path, asked: Mapping[str, Any], num_videos: int, batch_size: int) -> None:
        super().__init__(num_videos, batch_size, path.with_name(f"{path.name}.parts"), asked)
        self.path = path

    def join(self) -> dict[str, NDArray[Any]]:
        """The arrays of all parts, when all are done."""
        parts = [self.read(part, dict) for part in self.all]
        arrays = {}
        for name in parts[0]:
            pieces = [of[name] for of in parts if len(of[name])]
            arrays[name] = np.concatenate(pieces) if pieces else parts[0][name]
        return arrays

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        write_arrays(self.path, arrays)
