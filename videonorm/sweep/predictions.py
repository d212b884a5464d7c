"""What was expected of batch norm in the shapes of a sweep, beside what happened there.

The predictions are tables of `videonorm frontier statistics` that lie in the sweep's folder.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videonorm.errors import UserError
from videonorm.sweep.shape import Shape


@dataclass(frozen=True)
class Prediction:
    """Of how many independent values the statistics of a batch would be.

    Attributes:
        shape: T, stride (0 where clips are taken by time) and B.
        n_eff: the lesser of that of the mean and of the variance, in the median of the layers that vary.
        short: layers in which it is too few.
        layers: of the network, that have a norm.
    """

    shape: Shape
    n_eff: float
    short: int
    layers: int

    @property
    def verdict(self) -> str:
        """On batch norm."""
        if self.shape.batch_size == 1:
            return "refuses"
        return "will fail" if 2 * self.short >= self.layers else "should work"


def read_predictions(output: Path) -> list[Prediction]:
    """What the files statistics*.csv in a sweep's folder say, by shape; none without such a file.

    Raises:
        UserError: a file cannot be read, is of something else, or two of them tell of one shape.
    """
    layers: dict[Shape, list[tuple[float, bool]]] = {}
    for path in sorted(output.glob("statistics*.csv")):
        of_file: dict[Shape, list[tuple[float, bool]]] = {}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    stride = int(row["frame_stride"] or 0)
                    shape = Shape(int(row["num_frames"]), stride, int(row["batch_size"]))
                    n_eff = min(float(row["n_eff_mean"]), float(row["n_eff_variance"]))
                    of_file.setdefault(shape, []).append((n_eff, row["is_short"] == "True"))
            if not of_file:
                raise ValueError("it has no row")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"statistics ({path}) must be a table of `videonorm frontier statistics` ({error})"
            ) from error
        if twice := sorted(layers.keys() & of_file.keys()):
            raise UserError(
                f"statistics ({path}) must tell of other shapes than the tables beside it, which have "
                f"{twice[0].length()}, B={twice[0].batch_size} too"
            )
        layers |= of_file
    return [
        Prediction(
            shape, float(np.nanmedian([n_eff for n_eff, _ in of])), sum(short for _, short in of), len(of)
        )
        for shape, of in sorted(layers.items())
    ]
