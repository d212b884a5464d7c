"""Scores of videos over several views: num_clips x num_crops of each, softmax averaged over them.

All views of a video come from one decode, by the sampling and the transform that `videonorm test` uses.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from videonorm.data import (
    BadVideo,
    BadVideos,
    Batch,
    Decoder,
    EvalTransform,
    Manifest,
    VideoLoader,
    decoding_workers,
)
from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.execution import Execution
from videonorm.evaluation.parts import Parts
from videonorm.evaluation.scores import view_logits


def score_videos(
    network: Execution,
    manifest: Manifest,
    clips: ClipSpec,
    device: torch.device,
    parts: Parts,
    *,
    num_clips: int,
    num_crops: int,
    channels_last: bool = False,
    decoder: Decoder = "auto",
    num_workers: int | None = None,
    time_limit_seconds: float = 60.0,
    max_bad_fraction: float = 0.05,
    progress: Callable[[int], None] = lambda videos: None,
) -> None:
    """Score the videos that are left of this process's parts; those that cannot be used have no scores.

    The network sees as many clips at a time as ``parts.batch_size`` says, however many views a video has.
    Where it is run otherwise than plainly, the first process notes the deviations on its first batch.

    Args:
        network: on `device`.
        clips: how clips are taken and prepared, the artifact's `card.input` or a variation of it.
        channels_last: give the network clips in that memory format.
        num_workers: decoding processes; None takes up to 8 on CUDA, and none on the CPU (the network's).
        time_limit_seconds: what reading one video may take, where there are such processes, before it is bad.
        max_bad_fraction: share of the videos that may be bad before it is an error.
        progress: told how many videos were done, again and again.

    Raises:
        UserError: more bad videos than allowed, or scores that are not finite.
    """
    on_cuda = device.type == "cuda"
    dataset = clips.dataset(manifest, num_clips, decoder=decoder)
    transform = clips.transform(num_crops, channels_last=channels_last).to(device)
    scores, counted = parts.scores, BadVideos()
    num_classes = scores.probabilities.shape[1]
    to_measure = bool(network.ways) and parts.rank == 0 and parts.notes is None
    todo = iter(parts.todo)
    part, left = -1, 0  # the part in work, and how many of its videos are to come
    bad: list[BadVideo] = []  # of that part
    with decoding_workers(num_workers, decoder, time_limit_seconds, device) or nullcontext() as workers:
        loader = VideoLoader(dataset, parts.batch_size, workers, pin_for=device if on_cuda else None)
        rows = [row for part in parts.todo for row in parts.rows(part)]
        loader.batch_sampler = BatchSampler(rows, parts.batch_size, drop_last=False)
        for batch in loader:
            if not left:
                part, bad = next(todo), []
                left = len(parts.rows(part))
            if len(batch):
                there = batch.to(device)
                if to_measure:
                    first = next(_views(there, transform)).flatten(0, 1)[: len(batch)]
                    parts.note([found.record() for found in network.deviations(first)])
                    to_measure = False
                logits = torch.cat([view_logits(network, of) for of in _views(there, transform)], dim=1)
                if logits.shape[2:] != (num_classes,):
                    raise UserError(
                        f"artifact must give num_classes ({num_classes}) scores of a clip, and "
                        f"gives {tuple(logits.shape[2:])}"
                    )
                if not scores.add(batch.index, batch.label, logits.cpu()).isfinite().all():
                    ways = " + ".join(network.ways) or "fp32"
                    scores.check_finite(f"artifact in {ways}", lambda row: manifest.entries[row].path)
            bad += batch.bad
            if counted.add("test", batch.bad):
                counted.check("test", len(dataset), max_bad_fraction)
            left -= len(batch) + len(batch.bad)
            if not left:
                parts.finish(part, bad)
            progress(len(batch) + len(batch.bad))


def _views(batch: Batch, transform: EvalTransform) -> Iterator[Tensor]:
    """The views (B, num_crops, 3, T, H, W) of each video's first clip, then of the second, and so on.

    All at once they would be floats, four times the bytes of the frames and more where crops overlap.
    """
    for clip in range(batch.frames.shape[1]):
        yield transform(replace(batch, frames=batch.frames[:, clip : clip + 1]))[0]
