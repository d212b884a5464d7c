"""Whether batch norm has enough clips: the ``effective_sizes`` of layers, and what is expected of a shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videonorm.layers.effective_sizes import Array, effective_sizes, of_median_channel
from videonorm.machine import commit, versions

# Below so many independent values, a layer's statistics are expected to be noise. What is known, in the
# median layer of networks of depth 10 and a quarter of the usual width before training: on MotionClips batch
# norm was some 19 points of top-1 behind gn_ws at 3.5 values (T = 16, B = 2) and 5 at 6 (T = 8, B = 4), in
# the mean of five seeds that differ much (sweep/quickstart/results.csv); on GRID's speech, real video, it did
# not fail at 20 (T = 16, B = 2; sweep/grid_t_b/results.csv).
FEW = 5.0
ORIGIN = (
    "A prediction, not a result: on MotionClips batch norm was, in the mean of five seeds that differ much, "
    "some 19 points of top-1 behind gn_ws where the median layer had 3.5 independent values (T=16, B=2) and "
    "5 where it had 6 (T=8, B=4); on real video of speech (GRID) it did not fail with 20 (T=16, B=2)."
)


@dataclass(frozen=True)
class Layer:
    """A norm's place in batches of one shape. The fields are the columns of the CSV.

    Attributes:
        n_eff_mean, n_eff_variance: medians over its channels; nan if none varies.
        frame_stride: source frames from one frame of a clip to the next; None where clips are taken by time.
        channels_below: share of the channels of which one of the two is below FEW.
        is_short: whether one of the two is, in its median channel.
        clips: that were looked at.
        network: what they were fed to: "as initialized", with batch norms, or a checkpoint.
    """

    layer: str
    num_channels: int
    num_frames: int
    frame_stride: int | None
    batch_size: int
    n_eff_mean: float
    n_eff_variance: float
    channels_below: float
    is_short: bool
    clips: int
    network: str
    torch: str | None
    commit: str | None

    @property
    def n_eff(self) -> float:
        """The lesser of the two."""
        return min(self.n_eff_mean, self.n_eff_variance)


def layers(
    moments: Mapping[str, Array],
    num_frames: int,
    frame_stride: int | None,
    batch_sizes: Sequence[int],
    network: str,
) -> list[Layer]:
    """A row for each batch size and layer.

    Args:
        moments: as ``Recorder`` writes them.
    """
    names = [key.removesuffix(".mean") for key in moments if key.endswith(".mean")]
    made_by = {"torch": versions()["torch"], "commit": commit()}
    rows = []
    for batch_size in batch_sizes:
        for name in names:
            means = moments[f"{name}.mean"]
            of_mean, of_variance = effective_sizes(means, moments[f"{name}.variance"], batch_size)
            sizes = of_median_channel((of_mean, of_variance))
            varies = ~np.isnan(of_mean)
            row = Layer(
                layer=name,
                num_channels=means.shape[1],
                num_frames=num_frames,
                frame_stride=frame_stride,
                batch_size=batch_size,
                n_eff_mean=sizes[0],
                n_eff_variance=sizes[1],
                is_short=min(sizes) < FEW,
                channels_below=_share(np.minimum(of_mean, of_variance)[varies] < FEW),
                clips=len(means),
                network=network,
                **made_by,
            )
            rows.append(row)
    return rows


def _share(those: NDArray[np.bool_]) -> float:
    return float(those.mean()) if len(those) else float("nan")


@dataclass(frozen=True)
class Cell:
    """Every layer in batches of one shape."""

    layers: Sequence[Layer]

    @property
    def num_frames(self) -> int:
        return self.layers[0].num_frames

    @property
    def batch_size(self) -> int:
        return self.layers[0].batch_size

    @property
    def short(self) -> int:
        """Layers that rest on too few independent values."""
        return sum(layer.is_short for layer in self.layers)

    @property
    def is_refused(self) -> bool:
        """Whether there is a single clip."""
        return self.batch_size == 1

    @property
    def fails(self) -> bool:
        """Whether batch norm is expected to fail: half of the layers or more are short."""
        return not self.is_refused and 2 * self.short >= len(self.layers)

    def median(self, name: str) -> float:
        """Of a column, over the layers."""
        return float(np.nanmedian([getattr(layer, name) for layer in self.layers]))

    @property
    def worst(self) -> Layer:
        return min(self.layers, key=lambda layer: (np.isnan(layer.n_eff), layer.n_eff))


def cells(rows: Sequence[Layer]) -> list[Cell]:
    """In the order of the rows."""
    shapes = dict.fromkeys((row.num_frames, row.batch_size) for row in rows)
    return [Cell([row for row in rows if (row.num_frames, row.batch_size) == shape]) for shape in shapes]


def sentences(of: Sequence[Cell]) -> list[str]:
    """What is expected of batch norm."""
    said = []
    of = sorted(of, key=lambda cell: cell.median("n_eff"))
    if failing := [cell for cell in of if cell.fails]:
        first, *others = failing
        said.append(
            f"BN will fail here: at B={first.batch_size}, T={first.num_frames} the statistics of "
            f"{first.short} of {len(first.layers)} layers rest on fewer than {FEW:g} independent values."
        )
        if others:
            shapes = "; ".join(f"B={cell.batch_size}, T={cell.num_frames}" for cell in others)
            said.append(f"So it will at {shapes}.")
    elif working := [cell for cell in of if not cell.is_refused]:
        said.append(
            f"BN is not expected to fail: at worst, at B={working[0].batch_size}, T={working[0].num_frames}, "
            f"the statistics of the median layer rest on {working[0].median('n_eff'):.1f} independent values."
        )
    if any(cell.is_refused for cell in of):
        said.append("Of a single clip it takes no statistics, unless min_clips is 1: those of InstanceNorm.")
    return said
