"""Scores of videos over several views: num_clips x num_crops of each, softmax averaged over them.

All views of a video come from one decode, by the sampling and the transform that `videonorm test` uses.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from videonorm.data import (
    BadVideo,
    Decoder,
    EvalTransform,
    Manifest,
    UniformClips,
    VideoDataset,
    VideoLoader,
    decoding_workers,
)
from videonorm.evaluation.artifact import Artifact, InputSpec

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Scores:
    """The scores of a few videos."""

    index: Tensor  # int64 (B,): rows of the manifest
    probabilities: Tensor  # float32 (B, num_classes), on the CPU
    bad: list[BadVideo]  # videos that could not be used, and have no scores


def score_videos(
    artifact: Artifact,
    manifest: Manifest,
    clips: InputSpec,
    device: torch.device,
    *,
    num_clips: int,
    num_crops: int,
    batch_size: int,
    precision: Precision = "fp32",
    decoder: Decoder = "auto",
    num_workers: int | None = None,
    time_limit_seconds: float = 60.0,
) -> Iterator[Scores]:
    """Score every video of a manifest, some at a time, in its order.

    Args:
        artifact: on `device`.
        clips: how clips are taken and prepared, `artifact.card.input` or a variation of it.
        batch_size: videos at a time. The network sees one view of each at once, so that its memory is that
            of a batch of so many clips, however many views there are.
        precision: "bf16" runs the network under autocast.
        num_workers: decoding processes; None takes up to 8 on CUDA, and none on the CPU (the network's).
        time_limit_seconds: what reading one video may take, where there are such processes, before it is bad.
    """
    on_cuda = device.type == "cuda"
    sampling = UniformClips(clips.num_frames, clips.frame_stride, num_clips, clips.clip_starts)
    dataset = VideoDataset(
        manifest,
        sampling,
        decoder=decoder,
        short_side=clips.short_side,
        replace_bad=False,
        short_video=clips.short_video,
    )
    with decoding_workers(num_workers, decoder, time_limit_seconds, device) or nullcontext() as workers:
        loader = VideoLoader(dataset, batch_size, workers, pin_for=device if on_cuda else None)
        transform = EvalTransform(
            clips.crop_size, clips.mean, clips.std, num_crops, channels_last=on_cuda
        ).to(device)
        for batch in loader:
            if not len(batch.index):
                yield Scores(batch.index, torch.zeros(0, artifact.card.num_classes), batch.bad)
                continue
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
            ):
                views, _ = transform(batch.to(device))
                logits = torch.stack([artifact.network(view) for view in views.unbind(dim=1)], dim=1)
                probabilities = logits.float().softmax(dim=-1).mean(dim=1)
            yield Scores(batch.index, probabilities.cpu(), batch.bad)
