"""What happens to a batch on the device: crop, flip, to float, normalize.

Frames arrive as uint8, four times smaller than what the model sees, and their layout (..., T, H, W, 3)
already is that of channels_last_3d.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from videonorm.data.dataset import Batch
from videonorm.errors import UserError

KINETICS_MEAN = (0.45, 0.45, 0.45)  # of RGB in [0, 1], as in PySlowFast
KINETICS_STD = (0.225, 0.225, 0.225)


class TrainTransform(nn.Module):
    """A random square crop and, for each clip with probability 1/2, a mirror flip; then normalized floats.

    Args:
        crop_size: pixels. Crops start at whole pixels, evenly drawn among all positions within the picture.
        mean, std: of each colour, for values in [0, 1].
        hflip: leave off where mirroring changes the class.
        channels_last: give the clips in ``torch.channels_last_3d`` memory format.

    Shape:
        Batch of B videos with V clips each -> clips float32 (B * V, 3, T, crop_size, crop_size), label
        (B * V,), in the order of the batch.
    """

    def __init__(
        self,
        crop_size: int,
        mean: Sequence[float] = KINETICS_MEAN,
        std: Sequence[float] = KINETICS_STD,
        hflip: bool = True,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.hflip = hflip
        self.normalize = Normalize(mean, std, channels_last)

    def forward(self, batch: Batch, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """``generator`` is a CPU generator, ``None`` torch's global one: positions are drawn on the host, so
        that nothing waits for the device and a seed gives the same crops on every device."""
        num_clips = batch.frames.shape[1]
        crops = []
        for clips, (height, width) in zip(batch.frames, batch.sizes, strict=True):
            check_crop_fits(self.crop_size, height, width)
            for clip in clips:
                top = _draw(height - self.crop_size, generator)
                left = _draw(width - self.crop_size, generator)
                crop = clip[:, top : top + self.crop_size, left : left + self.crop_size]
                crops.append(crop.flip(2) if self.hflip and _draw(1, generator) else crop)
        return self.normalize(torch.stack(crops)), batch.label.repeat_interleave(num_clips)


class EvalTransform(nn.Module):
    """The centre crop, or three square crops along the longer side; then normalized floats. Nothing random.

    Args:
        num_crops: 1 (centre) or 3 (left, centre, right, or top, centre, bottom if the picture is upright).
        others: see ``TrainTransform``.

    Shape:
        Batch of B > 0 videos with V clips each -> clips float32 (B, V * num_crops, 3, T, crop_size,
        crop_size), crops of one clip side by side, and label (B,).
    """

    def __init__(
        self,
        crop_size: int,
        mean: Sequence[float] = KINETICS_MEAN,
        std: Sequence[float] = KINETICS_STD,
        num_crops: int = 1,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if num_crops not in (1, 3):
            raise UserError(f"num_crops ({num_crops}) must be 1 or 3")
        self.crop_size = crop_size
        self.num_crops = num_crops
        self.normalize = Normalize(mean, std, channels_last)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        num_videos, num_clips = batch.frames.shape[:2]
        crops = [
            clip[:, top : top + self.crop_size, left : left + self.crop_size]
            for clips, (height, width) in zip(batch.frames, batch.sizes, strict=True)
            for clip in clips
            for top, left in self._positions(height, width)
        ]
        views = self.normalize(torch.stack(crops))
        return views.unflatten(0, (num_videos, num_clips * self.num_crops)), batch.label

    def _positions(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of each crop."""
        check_crop_fits(self.crop_size, height, width)
        bottom, right = height - self.crop_size, width - self.crop_size
        if self.num_crops == 1:
            return [(bottom // 2, right // 2)]
        if width >= height:
            return [(bottom // 2, left) for left in (0, right // 2, right)]
        return [(top, right // 2) for top in (0, bottom // 2, bottom)]


class Normalize(nn.Module):
    """uint8 (N, T, H, W, 3) -> float32 (N, 3, T, H, W): (x / 255 - mean) / std for each colour."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels_last: bool) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise UserError(f"{name} ({list(values)}) must have three values, for red, green and blue")
        if min(std) <= 0:
            raise UserError(f"std ({list(std)}) must be above 0")
        self.channels_last = channels_last
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -255 * torch.tensor(mean, dtype=torch.float64) * scale
        self.register_buffer("scale", scale.float().view(3, 1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(3, 1, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        clips = frames.permute(0, 4, 1, 2, 3)
        if not self.channels_last:
            clips = clips.contiguous()  # while it is still uint8
        return torch.addcmul(self.shift, clips, self.scale)


def check_crop_fits(crop_size: int, height: int, width: int) -> None:
    """Raise UserError for a picture smaller than the crop."""
    if min(height, width) < crop_size:
        raise UserError(
            f"crop_size ({crop_size}) must be at most the shorter side of every video, "
            f"and one has {min(height, width)} pixels; short_side: {crop_size} scales all of them"
        )


def _draw(highest: int, generator: Generator | None) -> int:
    """A whole number from 0 to ``highest``, evenly."""
    return int(torch.randint(highest + 1, (), generator=generator))
