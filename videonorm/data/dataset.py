"""From a manifest to clips of uint8 frames, and from clips to batches; transforms.py goes on from there."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from videonorm.data.bad_videos import BadVideo
from videonorm.data.decoding import (
    BadVideoError,
    Decoder,
    IndexStore,
    Reader,
    check_decoder,
    open_video,
)
from videonorm.data.decoding.reader import frames_between
from videonorm.data.entries import Entry
from videonorm.data.manifest import Manifest
from videonorm.data.sampling import Sampling, ShortVideo
from videonorm.errors import UserError

_TRIES = 10  # videos tried for one training sample

ClipSeconds = list[list[float]]
"""(V) times in the file of the first and the last frame of each clip."""


@dataclass(frozen=True)
class Sample:
    """The clips of one video."""

    frames: Tensor | None  # uint8 (V, T, H, W, 3): V clips of T frames, RGB; None for a bad video
    label: int
    index: int  # of the manifest entry that the frames are from
    bad: list[BadVideo]  # met on the way
    length: float = 0  # of the stretch of the video that the clips are from, see ``Sampling.length``
    clip_seconds: ClipSeconds = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """The clips of B videos, padded below and right to the largest picture. B is 0 if all were bad."""

    frames: Tensor  # uint8 (B, V, T, H, W, 3)
    sizes: list[tuple[int, int]]  # (B) height and width of each without padding; stay on the host
    label: Tensor  # int64 (B,)
    index: Tensor  # int64 (B,)
    bad: list[BadVideo]
    lengths: list[float] = field(default_factory=list)  # (B) of each stretch; stay on the host
    clip_seconds: list[ClipSeconds] = field(default_factory=list)  # (B)

    def __len__(self) -> int:
        return len(self.sizes)

    def clip(self, number: int) -> Self:
        """The same with one clip of each video; its times are left out."""
        return replace(self, frames=self.frames[:, number : number + 1], clip_seconds=[])

    def without(self, rows: Collection[int]) -> Self:
        """The other videos; what was bad stays named."""
        kept = [row for row in range(len(self)) if row not in rows]
        return replace(
            self,
            frames=self.frames[kept],
            sizes=[self.sizes[row] for row in kept],
            label=self.label[kept],
            index=self.index[kept],
            lengths=[self.lengths[row] for row in kept],
            clip_seconds=[self.clip_seconds[row] for row in kept],
        )

    def to(self, device: torch.device | str) -> Self:
        asynchronous = torch.device(device).type != "cpu"  # the host must not read before the copy is done
        return self._map(lambda tensor: tensor.to(device, non_blocking=asynchronous))

    def pin_memory(self) -> Self:
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, frames=move(self.frames), label=move(self.label), index=move(self.index))


class VideoDataset(Dataset[Sample]):
    """Clips of the videos of a manifest.

    Every random choice follows from (seed, epoch, index), whichever process makes it. What is learnt of the
    files' packets is kept beside the manifest (``IndexStore``).

    Args:
        sampling: ``RandomClips`` or ``UniformClips``.
        decoder: see ``open_video``.
        short_side: scale the pictures to this shorter side in pixels, up or down; a pair draws it evenly from
            low to high, both included, for each sample; ``None`` keeps the size of the file.
        replace_bad: take another video, drawn evenly, for one that cannot be used; for training only.
        short_video: see ``frame_indices`` and ``nearest_frames``; under ``error`` a video shorter than its
            clip counts as bad.
        cache_mib: keep whole decoded videos in memory until they fill so much, in each process that loads.
            Pays for small sets of small videos; needs a fixed ``short_side`` and workers that persist.

    Raises:
        UserError: on a wrong argument; on access, if none of ten videos can be used.
    """

    epoch = 0
    """To be set before the loader is iterated over anew, or every epoch sees the same clips."""

    def __init__(
        self,
        manifest: Manifest,
        sampling: Sampling,
        *,
        decoder: Decoder = "auto",
        short_side: int | tuple[int, int] | None = None,
        seed: int = 0,
        replace_bad: bool,
        short_video: ShortVideo = "loop",
        cache_mib: float = 0,
    ) -> None:
        check_decoder(decoder)
        if short_video not in get_args(ShortVideo):
            raise UserError(f"short_video ({short_video}) must be loop, repeat_last or error")
        sides = (short_side, short_side) if isinstance(short_side, int) else short_side
        if sides and not 1 <= sides[0] <= sides[1]:
            raise UserError(f"short_side ({short_side}) must be at least 1 pixel, a pair from low to high")
        if cache_mib and sides and sides[0] != sides[1]:
            raise UserError(f"cache_mib ({cache_mib}) must be 0 where short_side is drawn from a range")
        self.manifest = manifest
        self.sampling = sampling
        self.decoder = decoder
        self._short_sides = sides
        self.seed = seed
        self.replace_bad = replace_bad
        self.short_video = short_video
        self._index_store = IndexStore.beside(manifest.path)
        self._cache: dict[str, tuple[NDArray[np.float64], NDArray[np.uint8]]] = {}
        self._cache_bytes_left = cache_mib * 2**20

    def __len__(self) -> int:
        return len(self.manifest.entries)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, self.epoch)

    def sample(
        self,
        index: int,
        epoch: int,
        *,
        sampling: Sampling | None = None,
        refused: Mapping[int, str] | None = None,
        begin: Callable[[int], None] = lambda index: None,
    ) -> Sample:
        """The clips of the video ``index`` in an epoch.

        Args:
            sampling: in place of the dataset's own.
            refused: entries not to be tried, with the reasons: they count as bad.
            begin: told each entry before its file is opened.
        """
        bad: list[BadVideo] = []
        tried: set[int] = set()
        for attempt in range(min(_TRIES, len(self))):
            rng = Random(f"{self.seed} {epoch} {index} {attempt}")
            choice = rng.randrange(len(self)) if attempt else index
            while choice in tried:
                choice = rng.randrange(len(self))
            tried.add(choice)
            entry = self.manifest.entries[choice]
            try:
                if refused and choice in refused:
                    raise BadVideoError(entry.path, refused[choice])
                begin(choice)
                frames, length, times = self._load(entry, sampling or self.sampling, rng)
                return Sample(torch.from_numpy(frames), entry.label, choice, bad, length, times)
            except BadVideoError as error:
                bad.append(BadVideo(error.path, error.reason))
            if not self.replace_bad:
                return Sample(None, entry.label, choice, bad)
        listed = "; ".join(f"{path} {reason}" for path, reason in dict.fromkeys(bad))
        raise UserError(
            f"manifest ({self.manifest.path}) must list usable videos, and of {len(tried)} none is: {listed}"
        )

    def _load(
        self, entry: Entry, sampling: Sampling, rng: Random
    ) -> tuple[NDArray[np.uint8], float, ClipSeconds]:
        """Clips (V, T, H, W, 3), how long the stretch is that they are from, and when they are."""
        short_side = rng.randint(*self._short_sides) if self._short_sides else None
        sampling = sampling.drawn(rng)
        if (cached := self._cache.get(entry.path)) is not None:
            seconds, frames = cached
            indices, length = self._indices(entry, seconds, sampling, rng)
            return frames[indices], length, clip_seconds(seconds, indices)
        with open_video(entry.path, self.decoder, self._index_store) as video:
            indices, length = self._indices(entry, video.seconds, sampling, rng)
            times = clip_seconds(video.seconds, indices)
            if self._cache_bytes_left > 0 and (whole := self._keep(entry, video, short_side)) is not None:
                return whole[indices], length, times
            return read_clips(video, indices, short_side), length, times

    def _indices(
        self, entry: Entry, seconds: NDArray[np.float64], sampling: Sampling, rng: Random
    ) -> tuple[NDArray[np.int64], float]:
        """(V, T) frames of the video within the stretch that the entry asks for, and how long that is."""
        first, stop = frames_between(entry.path, seconds, entry.start_seconds, entry.end_seconds)
        stretch = seconds[first:stop] - seconds[first]
        try:
            clips = sampling.clips(stretch, rng, self.short_video)
        except ValueError as error:
            raise BadVideoError(entry.path, f"is too short: {error}") from None
        return clips + first, sampling.length(stretch)

    def _keep(self, entry: Entry, video: Reader, short_side: int | None) -> NDArray[np.uint8] | None:
        """Decode the whole video into the cache if there is room for it."""
        try:
            if video.num_frames * video.read([0], short_side).nbytes > self._cache_bytes_left:
                return None
            frames = video.read(range(video.num_frames), short_side)
        except BadVideoError:
            return None  # damaged somewhere, but perhaps not where the clip is
        self._cache[entry.path] = (video.seconds, frames)
        self._cache_bytes_left -= frames.nbytes
        return frames


def read_clips(video: Reader, indices: NDArray[np.int64], short_side: int | None) -> NDArray[np.uint8]:
    """The clips (V, T, H, W, 3) of the frames ``indices`` (V, T), each frame decoded once."""
    unique, inverse = np.unique(indices, return_inverse=True)
    frames = video.read(unique.tolist(), short_side)
    if (np.diff(inverse.ravel()) == 1).all():  # as they are, without a copy
        return frames.reshape(*indices.shape, *frames.shape[1:])
    return frames[inverse.reshape(indices.shape)]


def clip_seconds(seconds: NDArray[np.float64], indices: NDArray[np.int64]) -> ClipSeconds:
    """When clips are that have the frames ``indices`` (V, T); one that loops has its earliest frame first."""
    times = seconds[indices]
    return [[float(of.min()), float(of.max())] for of in times]


class About(NamedTuple):
    """A batch but for its frames, in a form that is cheap to send to another process."""

    sizes: list[tuple[int, int]]
    labels: list[int]
    indices: list[int]
    bad: list[BadVideo]
    lengths: list[float]
    clip_seconds: list[ClipSeconds]

    def batch(self, frames: Tensor) -> Batch:
        label, index = torch.tensor([self.labels, self.indices], dtype=torch.int64)
        return Batch(frames, self.sizes, label, index, self.bad, self.lengths, self.clip_seconds)


def empty_frames(shape: tuple[int, ...] = (0, 0, 0, 0, 0, 3)) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch of the samples that have frames; what was bad stays named."""
    frames, about = stack(samples, len(samples))
    return about.batch(frames)


def stack(
    samples: Iterable[Sample], at_most: int, empty: Callable[[tuple[int, ...]], Tensor] = empty_frames
) -> tuple[Tensor, About]:
    """``collate`` samples that need not be in memory together: each is copied before the next is asked for.

    Args:
        at_most: samples.
        empty: makes the uint8 tensor of a shape that the frames are copied into.
    """
    frames = empty_frames()
    sizes, labels, indices, bad, lengths, times = about = About([], [], [], [], [], [])
    for sample in samples:
        bad += sample.bad
        if sample.frames is None:
            continue
        num_clips, num_frames, height, width, _ = sample.frames.shape
        room = tuple(frames.shape[3:5])
        if height > room[0] or width > room[1]:
            smaller = frames
            frames = empty((at_most, num_clips, num_frames, max(height, room[0]), max(width, room[1]), 3))
            for row, (h, w) in enumerate(sizes):
                frames[row, :, :, :h, :w] = smaller[row, :, :, :h, :w]
        frames[len(sizes), :, :, :height, :width] = sample.frames
        sizes.append((height, width))
        labels.append(sample.label)
        indices.append(sample.index)
        lengths.append(sample.length)
        times.append(sample.clip_seconds)
    frames = frames[: len(sizes)]
    for row, (h, w) in zip(frames, sizes, strict=True):
        row[:, :, h:] = 0
        row[:, :, :h, w:] = 0
    return frames, about
