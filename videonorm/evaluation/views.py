"""Scores of videos over several views: num_clips x num_crops of each, softmax averaged over them.

All views of a video come from one decode, by the sampling and the transform that `videonorm test` uses.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import torch

from videonorm.data import BadVideo, BadVideos, Decoder, Manifest, VideoLoader, decoding_workers
from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.artifact import Artifact
from videonorm.evaluation.scores import VideoScores, view_logits

Precision = Literal["fp32", "bf16"]


def score_videos(
    artifact: Artifact,
    manifest: Manifest,
    clips: ClipSpec,
    device: torch.device,
    *,
    num_clips: int,
    num_crops: int,
    batch_size: int,
    precision: Precision = "fp32",
    decoder: Decoder = "auto",
    num_workers: int | None = None,
    time_limit_seconds: float = 60.0,
    max_bad_fraction: float = 0.05,
    progress: Callable[[int], None] = lambda videos: None,
) -> tuple[VideoScores, list[BadVideo]]:
    """Score every video of a manifest; those that could not be used have no scores, and are listed.

    Args:
        artifact: on `device`.
        clips: how clips are taken and prepared, `artifact.card.input` or a variation of it.
        batch_size: videos at a time. The network sees one view of each at once, so that its memory is that
            of a batch of so many clips, however many views there are.
        precision: "bf16" runs the network under autocast.
        num_workers: decoding processes; None takes up to 8 on CUDA, and none on the CPU (the network's).
        time_limit_seconds: what reading one video may take, where there are such processes, before it is bad.
        max_bad_fraction: share of the videos that may be bad before it is an error.
        progress: told how many videos were done, again and again.

    Raises:
        UserError: more bad videos than allowed, or scores that are not finite.
    """
    on_cuda = device.type == "cuda"
    dataset = clips.dataset(manifest, num_clips, decoder=decoder)
    transform = clips.transform(num_crops, channels_last=on_cuda).to(device)
    scores = VideoScores(len(dataset), artifact.card.num_classes)
    bad: list[BadVideo] = []
    counted = BadVideos()
    with decoding_workers(num_workers, decoder, time_limit_seconds, device) or nullcontext() as workers:
        for batch in VideoLoader(dataset, batch_size, workers, pin_for=device if on_cuda else None):
            if len(batch):
                autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
                with torch.inference_mode(), autocast:
                    views, label = transform(batch.to(device))
                    logits = view_logits(artifact.network, views)
                if logits.shape[2:] != (artifact.card.num_classes,):
                    raise UserError(
                        f"artifact must give num_classes ({artifact.card.num_classes}) scores of a clip, and "
                        f"gives {tuple(logits.shape[2:])}"
                    )
                if not scores.add(batch.index, label.cpu(), logits.cpu()).isfinite().all():
                    scores.check_finite(f"artifact in {precision}", lambda row: manifest.entries[row].path)
            bad += batch.bad
            if counted.add("test", batch.bad):
                counted.check("test", len(dataset), max_bad_fraction)
            progress(len(batch) + len(batch.bad))
    if not scores.scored.any():
        raise UserError(f"data ({manifest.path}) must hold at least one video that can be decoded")
    return scores, bad
