"""What happens to a batch on the device: crop, flip, augment, to float, normalize, erase, mix.

Frames arrive as uint8, two or four times smaller than what the model sees, and their layout (..., T, H, W, 3)
already is that of channels_last_3d. They stay uint8 until `Normalize`, which writes each clip once, straight
into the batch that the model gets; nothing as large as the uncropped batch is ever float.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from videonorm.data.dataset import Batch
from videonorm.errors import UserError

# torchvision.transforms.v2 takes as long to import as torch itself, and loading processes import this file:
# it is imported where it is used.

KINETICS_MEAN = (0.45, 0.45, 0.45)  # of RGB in [0, 1], as in PySlowFast
KINETICS_STD = (0.225, 0.225, 0.225)


class Window(NamedTuple):
    """A part of a picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int


class Crop(ABC):
    """Where a training clip is cut out of its pictures. What is cut is scaled to crop_size x crop_size."""

    @abstractmethod
    def draw(self, height: int, width: int, crop_size: int) -> Window:
        """A window of a picture, by torch's global generator.

        Raises:
            UserError: the picture has none.
        """

    def coarser(self, factor: float) -> "Crop":
        """For clips of ``factor`` times the size: their windows need not be smaller in the same measure.

        They are as they were, where they do not depend on crop_size.
        """
        return self


class RandomCrop(Crop):
    """A square, drawn evenly among all positions at whole pixels.

    Args:
        short_side: scale each clip first, to a shorter side of so many pixels, drawn evenly from low to high,
            both included; ``None`` leaves it as it was read. Unlike a range for the decoder this differs
            between the clips of one video, and only what is cut out is scaled.
    """

    def __init__(self, short_side: tuple[int, int] | None = None) -> None:
        if short_side is not None and not 1 <= short_side[0] <= short_side[1]:
            raise UserError(
                f"crop.short_side ({short_side}) must be at least 1 pixel, a pair from low to high"
            )
        self.short_side = short_side
        self._least = 1.0  # what the lower end of the sides is multiplied by

    def coarser(self, factor: float) -> Crop:
        """Scales to ``factor`` times the low side up to the high one: the largest windows stay so."""
        crop = RandomCrop(self.short_side)
        crop._least = self._least * factor
        return crop

    def draw(self, height: int, width: int, crop_size: int) -> Window:
        shorter = min(height, width)
        full = round(crop_size / self._least)  # of the crop that this one is a coarser one of
        if self.short_side is None:
            check_crop_fits(full, height, width)
        elif self.short_side[0] < full:
            raise UserError(f"crop.short_side ({self.short_side}) must start at crop_size ({full}) or above")
        low, high = self.short_side or (shorter, shorter)
        low = max(crop_size, math.ceil(low * self._least))
        side = crop_size
        if self.short_side or low < high:
            # The picture is not scaled but the square, the other way round.
            side = max(1, round(crop_size * shorter / (low + _draw(high - low))))
        return Window(_draw(height - side), _draw(width - side), side, side)


class RandomResizedCrop(Crop):
    """A rectangle of random area and shape, drawn by torchvision (Szegedy et al., arXiv:1409.4842).

    Args:
        scale: its area as a fraction of the picture's, from low to high.
        ratio: its width over its height, from low to high.
    """

    def __init__(
        self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"crop.scale ({scale}) must be fractions above 0 and at most 1, from low to high")
        if not 0 < ratio[0] <= ratio[1]:
            raise UserError(f"crop.ratio ({ratio}) must be above 0, from low to high")
        from torchvision.transforms.v2 import RandomResizedCrop as Sampler

        self._sampler = Sampler(1, scale, ratio)

    def draw(self, height: int, width: int, crop_size: int) -> Window:
        return Window(**self._sampler.make_params([torch.empty(1, height, width, device="meta")]))


class TrainTransform(nn.Module):
    """Random crops, flips and augmentation, one draw a clip for all its frames; then normalized floats.

    Args:
        crop_size: height and width of the clips in pixels.
        mean, std: of each colour, for values in [0, 1].
        hflip: mirror each clip with probability 1/2. Off where mirroring changes the class.
        channels_last: give the clips in ``torch.channels_last_3d`` memory format.
        crop: ``RandomCrop()`` by default.
        augment: applied one after the other to each cropped clip, uint8 (T, 3, crop_size, crop_size):
            what of torchvision.transforms.v2 keeps dtype and shape, such as RandAugment and ColorJitter.
        random_erasing: probability that a rectangle of a clip, 2 to 33 % of its area, is noise of mean 0 and
            variance 1 (Zhong et al., arXiv:1708.04896).
        mixup_alpha: parameter of ``mixup``; 0 is off.
        num_classes: K; mixup must know it.
        dtype: of the clips. They are computed in float32 and rounded once, as autocast would.

    Shape:
        Batch of B videos with V clips each -> clips (B * V, 3, T, crop_size, crop_size), label (B * V,) int64
        or, after mixup, (B * V, K) float32, in the order of the batch.

    Raises:
        UserError: on a wrong argument; on use, for a picture smaller than the crop, or if ``augment`` changes
            dtype or shape.
    """

    def __init__(
        self,
        crop_size: int,
        mean: Sequence[float] = KINETICS_MEAN,
        std: Sequence[float] = KINETICS_STD,
        hflip: bool = True,
        channels_last: bool = False,
        *,
        crop: Crop | None = None,
        augment: Sequence[nn.Module] = (),
        random_erasing: float = 0.0,
        mixup_alpha: float = 0.0,
        num_classes: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not 0 <= random_erasing <= 1:
            raise UserError(f"random_erasing ({random_erasing}) must be a probability, from 0 to 1")
        if not 0 <= mixup_alpha < math.inf:
            raise UserError(f"mixup_alpha ({mixup_alpha}) must be at least 0")
        if mixup_alpha and num_classes is None:
            raise UserError("num_classes (None) must be known to mixup")
        self.crop_size = crop_size
        self.hflip = hflip
        self.crop = crop or RandomCrop()
        self.augment = nn.ModuleList(augment)
        self.normalize = Normalize(mean, std, channels_last, dtype)
        self.erase = _Erase(random_erasing) if random_erasing else None
        self.mixup_alpha = mixup_alpha
        self.num_classes = num_classes

    def at(self, crop_size: int) -> "TrainTransform":
        """The same for clips of another size, cut out by ``Crop.coarser``."""
        if crop_size == self.crop_size:
            return self
        other = copy(self)
        other.crop, other.crop_size = self.crop.coarser(crop_size / self.crop_size), crop_size
        return other

    def forward(self, batch: Batch, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """All random numbers follow from one that is drawn from ``generator``, on the CPU, or from torch's
        global generator if that is ``None``. They are drawn on the host, but for the noise of erasing: a seed
        gives the same windows and factors on every device, and no draw waits for it."""
        label = batch.label.repeat_interleave(batch.frames.shape[1])
        with _numbers_from(generator, batch.frames.device):
            clips = self.normalize(
                [
                    self._augmented(self._cropped(clip[:, :height, :width]))
                    for video, (height, width) in zip(batch.frames, batch.sizes, strict=True)
                    for clip in video
                ]
            )
            if self.erase is not None:
                for clip in clips:
                    self.erase(clip)
            if not self.mixup_alpha:
                return clips, label
            assert self.num_classes is not None
            target = F.one_hot(label, self.num_classes).float()
            mixup(clips, target, self.mixup_alpha, batch.frames.shape[1])
            return clips, target

    def _cropped(self, clip: Tensor) -> Tensor:
        """(T, H, W, 3) -> (T, crop_size, crop_size, 3), flipped or not."""
        top, left, height, width = self.crop.draw(clip.shape[1], clip.shape[2], self.crop_size)
        crop = clip[:, top : top + height, left : left + width]
        if (height, width) != (self.crop_size, self.crop_size):
            from torchvision.transforms.v2.functional import resize

            # Antialiased: where the window is larger than the crop, plain bilinear would skip pixels.
            size = [self.crop_size, self.crop_size]
            crop = resize(crop.permute(0, 3, 1, 2), size, antialias=True).permute(0, 2, 3, 1)
        return crop.flip(2) if self.hflip and _draw(1) else crop

    def _augmented(self, clip: Tensor) -> Tensor:
        """(T, H, W, 3) -> (T, H, W, 3)"""
        for module in self.augment:
            frames = module(clip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            if (frames.dtype, frames.shape) != (clip.dtype, clip.shape):
                raise UserError(
                    f"augment ({type(module).__name__}) must keep clips uint8 and {tuple(clip.shape)}, "
                    f"not make them {frames.dtype} and {tuple(frames.shape)}"
                )
            clip = frames
        return clip


def mixup(clips: Tensor, target: Tensor, alpha: float, clips_per_video: int = 1) -> None:
    """MixUp (Zhang et al., arXiv:1710.09412), in place: each clip and its target are blended with another's.

    One weight, drawn from Beta(alpha, alpha) by torch's global generator, serves the whole batch, and the
    other clip is the one before, as in the authors' code; of several clips a video, the one of the same
    number in the video before, since clips of one video have one label. A batch of one video stays as it is.

    Args:
        clips: (B * V, 3, T, H, W), V clips of each video.
        target: (B * V, K) class probabilities.
    """
    weight = torch.distributions.Beta(alpha, alpha).sample().item()
    for values in (clips, target):
        torch.lerp(values.roll(clips_per_video, 0), values, weight, out=values)


class EvalTransform(nn.Module):
    """The centre crop, or square crops along the longer side; then normalized floats. Nothing random.

    Args:
        num_crops: 1 (centre) or more, spread from end to end of the longer side; 3 are the usual ones (left,
            centre, right, or top, centre, bottom if the picture is upright).
        others: see ``TrainTransform``.

    Shape:
        Batch of B > 0 videos with V clips each -> clips (B, V * num_crops, 3, T, crop_size, crop_size), crops
        of one clip side by side, and label (B,).
    """

    def __init__(
        self,
        crop_size: int,
        mean: Sequence[float] = KINETICS_MEAN,
        std: Sequence[float] = KINETICS_STD,
        num_crops: int = 1,
        channels_last: bool = False,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if num_crops < 1:
            raise UserError(f"num_crops ({num_crops}) must be at least 1")
        self.crop_size = crop_size
        self.num_crops = num_crops
        self.normalize = Normalize(mean, std, channels_last, dtype)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        num_videos, num_clips = batch.frames.shape[:2]
        views = self.normalize(
            [
                clip[:, top : top + self.crop_size, left : left + self.crop_size]
                for clips, (height, width) in zip(batch.frames, batch.sizes, strict=True)
                for clip in clips
                for top, left in self._positions(height, width)
            ]
        )
        return views.unflatten(0, (num_videos, num_clips * self.num_crops)), batch.label

    def _positions(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of each crop."""
        check_crop_fits(self.crop_size, height, width)
        bottom, right = height - self.crop_size, width - self.crop_size
        last = self.num_crops - 1
        if last == 0:
            return [(bottom // 2, right // 2)]
        if width >= height:
            return [(bottom // 2, right * i // last) for i in range(self.num_crops)]
        return [(bottom * i // last, right // 2) for i in range(self.num_crops)]


class _Erase(nn.Module):
    """Puts noise into a rectangle, of area and shape in PySlowFast's ranges, drawn by torchvision."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        from torchvision.transforms.v2 import RandomErasing

        self.probability = probability
        self._sampler = RandomErasing(1.0, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3))

    def forward(self, clip: Tensor) -> None:
        """(3, T, H, W), changed in place."""
        if torch.rand(()) >= self.probability:
            return
        drawn = self._sampler.make_params([clip])
        if drawn["v"] is not None:  # or else none of ten rectangles was small enough for the picture
            top, left = drawn["i"], drawn["j"]
            clip[:, :, top : top + drawn["h"], left : left + drawn["w"]].normal_()


class Normalize(nn.Module):
    """N clips uint8 (T, H, W, 3) -> (N, 3, T, H, W): (x / 255 - mean) / std for each colour.

    Computed in float32, or in float64 for that dtype, and rounded once.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], channels_last: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise UserError(f"{name} ({list(values)}) must have three values, for red, green and blue")
        if min(std) <= 0:
            raise UserError(f"std ({list(std)}) must be above 0")
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.dtype = dtype
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -255 * torch.tensor(mean, dtype=torch.float64) * scale
        computed = torch.promote_types(dtype, torch.float32)
        self.register_buffer("scale", scale.to(computed).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.to(computed).view(3, 1, 1, 1), persistent=False)

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        num_frames, height, width, _ = clips[0].shape
        batch = torch.empty(
            (len(clips), 3, num_frames, height, width),
            dtype=self.dtype,
            device=clips[0].device,
            memory_format=self.memory_format,
        )
        # One by one: crops need not be gathered first, and the CPU, which makes a float copy of its operands,
        # makes it of one clip.
        for row, clip in zip(batch, clips, strict=True):
            torch.addcmul(self.shift, clip.permute(3, 0, 1, 2), self.scale, out=row)
        return batch


def check_crop_fits(crop_size: int, height: int, width: int) -> None:
    """Raise UserError for a picture smaller than the crop."""
    if min(height, width) < crop_size:
        raise UserError(
            f"crop_size ({crop_size}) must be at most the shorter side of every video, "
            f"and one has {min(height, width)} pixels; short_side: {crop_size} scales all of them"
        )


@contextmanager
def _numbers_from(generator: Generator | None, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which torchvision draws from, and put them back at the end."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every device for good
        for gpu in cuda:
            torch.cuda.default_generators[gpu.index].manual_seed(seed)
        yield


def _draw(highest: int) -> int:
    """A whole number from 0 to ``highest``, evenly."""
    return int(torch.randint(highest + 1, ()))
