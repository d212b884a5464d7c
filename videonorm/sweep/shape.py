"""The shape of a training's batches."""

from typing import NamedTuple

from jsonargparse.typing import PositiveInt


class Shape(NamedTuple):
    """T x stride, B."""

    num_frames: PositiveInt
    frame_stride: PositiveInt  # 0 where clips are taken by time, data.frames_per_second
    batch_size: PositiveInt  # clips per device and step

    def length(self, with_stride: bool = True) -> str:
        """The clip's: T x stride."""
        return (
            f"{self.num_frames} x {self.frame_stride}"
            if with_stride and self.frame_stride
            else str(self.num_frames)
        )
