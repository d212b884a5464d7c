"""The loaders that ours is measured beside, and the limit of all: nothing but decoding.

PyTorchVideo's datasets and decoders are its own. Its transforms cannot be imported beside a current
torchvision, so their steps are written down here once more. `pyslowfast_clip` follows the steps of
PySlowFast, which is no package: it is a re-enactment.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from random import Random
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, SequentialSampler

from videonorm.bench.records import Row
from videonorm.bench.videos import FRAME_RATE
from videonorm.data import Manifest, frame_indices, random_clip_start
from videonorm.data.decoding.container import open_container, video_stream
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.packet_index import PacketIndex
from videonorm.data.transforms import KINETICS_MEAN, KINETICS_STD

MEAN = torch.tensor(KINETICS_MEAN).view(3, 1, 1, 1)
STD = torch.tensor(KINETICS_STD).view(3, 1, 1, 1)


def decode_limit(path: str, indices: Sequence[int], drop: bool) -> int:
    """Open a file, seek, and decode in one thread exactly what the frames need; return how many came out.

    From the keyframe before a frame to the frame, with the order and time of the packets known beforehand.
    No picture is converted, scaled or copied.

    Args:
        drop: leave out the packets that no frame refers to and that are not asked for.
    """
    index = packet_index(os.path.realpath(path))  # of few files: known after a moment
    wanted = np.asarray(indices)
    skip = index.packet_is_disposable & drop
    skip[index.position[wanted]] = skip[index.last[wanted]] = False
    decoded = 0
    with open_container(path) as container:
        stream = video_stream(path, container)
        for first, last in _stretches(index, wanted):
            container.seek(int(index.packet_dts[first]), stream=stream)
            position = first - 1
            for packet in container.demux(stream):
                if position == last:
                    break
                if not packet.size or (position < first and packet.pts != index.packet_pts[first]):
                    continue
                position += 1
                if not skip[position]:
                    decoded += len(stream.decode(packet))
            decoded += len(stream.decode(None))
    return decoded


def _stretches(index: PacketIndex, wanted: Any) -> list[tuple[int, int]]:
    """The first and last packet of each stretch that must be decoded."""
    found: list[tuple[int, int]] = []
    for key, last in zip(index.keyframe[wanted].tolist(), index.last[wanted].tolist(), strict=True):
        if found and key <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((key, last))
    return found


class LimitDataset(Dataset[Tensor]):
    """Random clips that are decoded, without what nobody refers to, and thrown away."""

    def __init__(self, manifest: Manifest, case: Row) -> None:
        self.paths = [entry.path for entry in manifest.entries]
        self.clip = (case["num_frames"], case["frame_stride"])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        path = self.paths[number]
        video_frames = len(packet_index(os.path.realpath(path)).pts)
        start = random_clip_start(video_frames, *self.clip, Random(number))
        decode_limit(path, frame_indices(start, *self.clip, video_frames, "loop"), drop=True)
        return torch.zeros(1)


class TorchcodecDataset(Dataset[Tensor]):
    """Clips by torchcodec's own random sampler, made ready in the worker with torchvision's operations."""

    def __init__(self, manifest: Manifest, case: Row) -> None:
        self.paths = [entry.path for entry in manifest.entries]
        self.case = case

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        from torchcodec.samplers import clips_at_random_indices  # type: ignore[attr-defined,unused-ignore]

        video, case = torchcodec_decoder(self.paths[number]), self.case
        clips = clips_at_random_indices(
            video, num_frames_per_clip=case["num_frames"], num_indices_between_frames=case["frame_stride"]
        )
        frames = torchcodec_scaled(clips.data[0], case["short_side"]).transpose(0, 1)
        return _normalize(random_crop(frames, case["crop_size"]))


def torchcodec_decoder(path: str) -> Any:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined,unused-ignore]

    return VideoDecoder(path, num_ffmpeg_threads=1)


def torchcodec_scaled(frames: Tensor, short_side: int) -> Tensor:
    """uint8 (T, 3, H, W), as torchcodec gives them; H is the shorter."""
    from torchvision.transforms.v2.functional import resize

    scaled: Tensor = resize(frames, [short_side], antialias=True)
    return scaled


def pytorchvideo_clips(manifest: Manifest, decoder: str, case: Row) -> Any:
    """PyTorchVideo's dataset with its random clips, each as long as ours; a `transform` does the rest."""
    from pytorchvideo.data import RandomClipSampler

    def crop(clip: Tensor, _number: int) -> Tensor:
        return random_crop(clip, case["crop_size"])

    return _pytorchvideo(manifest, RandomClipSampler(_duration(case)), RandomSampler, crop, decoder, case)


def pytorchvideo_views(manifest: Manifest, case: Row) -> Any:
    """PyTorchVideo's dataset with its clips for tests, view after view of video after video."""
    from pytorchvideo.data import make_clip_sampler

    def crop(clip: Tensor, number: int) -> Tensor:
        return uniform_crop(clip, case["crop_size"], number, case["num_crops"])

    views = (_duration(case), case["num_clips"], case["num_crops"])
    sampler = make_clip_sampler("constant_clips_per_video", *views)
    return _pytorchvideo(manifest, sampler, SequentialSampler, crop, "pyav", case)


def _pytorchvideo(
    manifest: Manifest,
    clips: Any,
    videos: Any,
    crop: Callable[[Tensor, int], Tensor],
    decoder: str,
    case: Row,
) -> Any:
    from pytorchvideo.data import LabeledVideoDataset

    def transform(sample: dict[str, Any]) -> Tensor:
        clip = uniform_temporal_subsample(sample["video"], case["num_frames"])
        return _normalize(crop(short_side_scale(clip, case["short_side"]), sample["aug_index"]))

    paths = [(entry.path, {"label": entry.label}) for entry in manifest.entries]
    return LabeledVideoDataset(paths, clips, videos, transform, decode_audio=False, decoder=decoder)


def pytorchvideo_clip(path: str, decoder: str, start: int, case: Row) -> Tensor:
    """A clip (3, T, H, W) of float32, from the frame ``start``."""
    from pytorchvideo.data.encoded_video import EncodedVideo

    video = EncodedVideo.from_path(path, decode_audio=False, decoder=decoder)
    first = Fraction(start, FRAME_RATE)
    clip = video.get_clip(first, first + _duration(case))["video"]
    video.close()
    return uniform_temporal_subsample(clip, case["num_frames"])


def _duration(case: Row) -> Fraction:
    """Seconds of a clip."""
    return Fraction(case["num_frames"] * case["frame_stride"], FRAME_RATE)


def _normalize(clip: Tensor) -> Tensor:
    return ((clip / 255) - MEAN) / STD


def uniform_temporal_subsample(clip: Tensor, num_frames: int) -> Tensor:
    """As pytorchvideo.transforms.functional: (3, T, H, W) -> (3, num_frames, H, W)."""
    length = clip.shape[1]
    indices = torch.linspace(0, length - 1, num_frames).clamp(0, length - 1).long()
    return clip.index_select(1, indices)


def short_side_scale(clip: Tensor, short_side: int) -> Tensor:
    """As pytorchvideo.transforms.functional: bilinear, without antialiasing, on floats."""
    height, width = clip.shape[-2:]
    if width < height:
        size = (int(height / width * short_side), short_side)
    else:
        size = (short_side, int(width / height * short_side))
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False)


def random_crop(clip: Tensor, crop_size: int) -> Tensor:
    """A crop that is mirrored or not, of (..., H, W)."""
    top, left = (int(torch.randint(side - crop_size + 1, ())) for side in clip.shape[-2:])
    crop = clip[..., top : top + crop_size, left : left + crop_size]
    return crop.flip(-1) if torch.rand(()) < 0.5 else crop


def uniform_crop(clip: Tensor, crop_size: int, number: int, num_crops: int) -> Tensor:
    """Crop ``number`` of one in the centre, or of three from left to right, of (..., H, W) that is wide."""
    top, right = (clip.shape[-2] - crop_size) // 2, clip.shape[-1] - crop_size
    left = right // 2 if num_crops == 1 else right * number // 2
    return clip[..., top : top + crop_size, left : left + crop_size]


def pyslowfast_clip(path: str, clip: int, case: Row) -> Tensor:
    """The clip of one test view by PySlowFast's steps (slowfast/datasets/decoder.py, backend pyav).

    Open the file, decode every frame of the clip's span, all to RGB, choose, normalize, scale.

    Returns:
        (3, T, H, W) of float32, to be cropped.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        span = case["num_frames"] * case["frame_stride"]
        first = max(stream.frames - span, 0) * clip / case["num_clips"]
        pts_per_frame = stream.duration / stream.frames
        frames = list(_between(container, first * pts_per_frame, (first + span - 1) * pts_per_frame))
    pictures = torch.as_tensor(np.stack([frame.to_rgb().to_ndarray() for frame in frames]))
    chosen = torch.linspace(0, len(pictures) - 1, case["num_frames"]).clamp(0, len(pictures) - 1).long()
    values = pictures.index_select(0, chosen).float() / 255
    values = (values - torch.tensor(KINETICS_MEAN)) / torch.tensor(KINETICS_STD)
    return short_side_scale(values.permute(3, 0, 1, 2), case["short_side"])


def _between(container: Any, first_pts: float, last_pts: float) -> Iterator[av.VideoFrame]:
    stream = container.streams.video[0]
    container.seek(max(int(first_pts) - 1024, 0), any_frame=False, backward=True, stream=stream)
    frames = {}
    for frame in container.decode(video=0):
        if frame.pts < first_pts:
            continue
        if frame.pts > last_pts:
            frames[frame.pts] = frame  # one more than needed, as there
            break
        frames[frame.pts] = frame
    return (frames[pts] for pts in sorted(frames))
